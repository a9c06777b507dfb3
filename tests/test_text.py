from hrnet_ray.errors import DataError
from hrnet_ray.text import escape_control_chars, escape_csv_cell


def test_text_from_files_stays_one_line_and_moves_no_cursor():
    assert escape_control_chars("a\nb\r\x1b[2J\x9b31m\u202e\u2028\ud800c") == (
        r"a\nb\r\x1b[2J\x9b31m\u202e\u2028\ud800c"
    )
    assert escape_control_chars("Łódź 老虎 c'est ça.jpg") == "Łódź 老虎 c'est ça.jpg"


def test_a_cell_is_no_formula():
    formulas = ["=cmd()", "+1", "-1", "@x", "\t=1", "\r=1", "\n=1"]

    assert [escape_csv_cell(text)[0] for text in formulas] == ["'", "'", "'", "'", "\\", "\\", "\\"]
    assert escape_csv_cell("left_paw") == "left_paw"


def test_an_error_has_three_lines_whatever_it_names():
    error = DataError("two\nlines", "a\x1b[2J.jpg", "rename it")

    assert str(error).splitlines() == ["two\\nlines", "  a\\x1b[2J.jpg", "  fix: rename it"]
