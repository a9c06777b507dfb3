"""Environment variables for training on a CPU; they take effect at process start."""

MALLOC_RETAIN_ENV = {
    "MALLOC_MMAP_MAX_": "0",  # large tensors come from the heap too,
    "MALLOC_TRIM_THRESHOLD_": str(2**34),  # which keeps freed memory (bytes),
    "MALLOC_ARENA_MAX": "1",  # and is shared by all threads: other heaps end at 64 MiB
}
"""Settings of glibc's allocator that keep freed memory in the process.

Each step frees its activations and allocates them again. By default the memory returns to the
system in between, which costs 30,000 to 150,000 page faults per step of 8 crops.
"""

HUGE_PAGES_ENV = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""Setting of glibc's allocator (2.35 and later): pages of 2 MB, where the system permits them.

A step reads a gigabyte of activations; pages of 4 kB cost many more address translations.
"""

OPENMP_WAIT_ENV = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "10000",
}
"""Settings of OpenMP's threads, which wait for each other a thousand times per step.

By default they spin, which takes the core from another worker or from Ray Data. With PASSIVE alone
they sleep at once, and a step of two threads took 1.2 times as long. With both settings they spin
for some microseconds, then sleep.
"""

CPU_TRAINING_ENV = MALLOC_RETAIN_ENV | HUGE_PAGES_ENV | OPENMP_WAIT_ENV
"""All of these settings."""
