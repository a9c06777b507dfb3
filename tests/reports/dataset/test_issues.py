import numpy as np

from hrnet_ray.reports.dataset.issues import DatasetIssue, IssueType, find_label_issues

NAMES = ("nose", "left_eye", "right_eye", "tail")
POSE = np.array([[20.0, 20], [60, 20], [20, 80], [60, 80]])


def shifted(x: float, y: float) -> np.ndarray:
    return POSE + np.array([x, y])


def find_issues(poses: list[np.ndarray], visible: list[list[int]], boxes: list[list[float]], **more):
    count = len(poses)
    labels = {
        "id": np.arange(100, 100 + count),
        "image": np.array(["a.jpg"] * count, object),
        "sha256": np.array(["A"] * count, object),
        "image_xy": np.array(poses),
        "visible": np.array(visible, bool),
        "box_xywh": np.array(boxes, float),
    } | more
    return find_label_issues("train", labels, np.tile([0.0, 0, 99, 99], (count, 1)), NAMES)


BOX = [10.0, 10, 60, 80]
ALL = [1, 1, 1, 1]


def test_keypoints_outside_are_named_the_farthest_first():
    poses = [shifted(4, 0), shifted(17, 0), shifted(45, 0)]

    issues = find_issues(poses, [ALL, [0, 1, 1, 1], [1, 1, 1, 0]], [BOX] * 3)

    assert issues[IssueType.KEYPOINT_OUTSIDE_BOX] == [
        DatasetIssue(2, "a.jpg #102", "left_eye by 35 px", (1,)),
        DatasetIssue(1, "a.jpg #101", "left_eye by 7 px", (1,)),
        DatasetIssue(1, "a.jpg #101", "tail by 7 px", (3,)),
    ]
    assert issues[IssueType.KEYPOINT_OUTSIDE_IMAGE] == [DatasetIssue(2, "a.jpg #102", "left_eye by 6 px", (1,))]
    assert issues[IssueType.FEW_VISIBLE_KEYPOINTS] == [
        DatasetIssue(1, "a.jpg #101"),
        DatasetIssue(2, "a.jpg #102"),
    ]


def test_a_pose_that_is_labelled_twice_is_named():
    near, far = shifted(1, 1), shifted(4, 2)

    issues = find_issues([POSE, near, far], [ALL, ALL, ALL], [BOX, BOX, BOX])

    assert issues[IssueType.DUPLICATE_INSTANCE] == [DatasetIssue(1, "a.jpg #101", "as #100", (), ("train", 0))]


def test_with_few_common_keypoints_boxes_are_compared():
    visible = [[1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]

    issues = find_issues([POSE] * 3, visible, [BOX, [11, 10, 60, 80], [20, 10, 60, 80]])

    assert [issue.row for issue in issues[IssueType.DUPLICATE_INSTANCE]] == [1]


def test_equal_poses_on_two_images_are_no_duplicates():
    issues = find_issues([POSE, POSE], [ALL, ALL], [BOX, BOX], sha256=np.array(["A", "B"], object))

    assert issues[IssueType.DUPLICATE_INSTANCE] == []


def test_a_keypoint_that_is_never_visible_is_named():
    issues = find_issues([POSE], [[1, 1, 1, 0]], [BOX])

    assert issues[IssueType.KEYPOINT_NEVER_VISIBLE] == [DatasetIssue(-1, "tail")]


def test_no_keypoint_is_outside_an_unreadable_image():
    labels = {
        "id": np.arange(1),
        "image": np.array(["a.jpg"], object),
        "sha256": np.array(["A"], object),
        "image_xy": POSE[None],
        "visible": np.ones((1, 4), bool),
        "box_xywh": np.array([BOX]),
    }

    issues = find_label_issues("val", labels, np.full((1, 4), np.nan), NAMES)

    assert issues[IssueType.UNREADABLE_IMAGE] == [DatasetIssue(0, "a.jpg #0")]
    assert issues[IssueType.KEYPOINT_OUTSIDE_IMAGE] == []
