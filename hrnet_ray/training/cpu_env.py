"""What the environment of a process that trains on a CPU says, to be set before it starts."""

MALLOC_RETAIN_ENV = {
    "MALLOC_MMAP_MAX_": "0",  # large tensors too come from the heap,
    "MALLOC_TRIM_THRESHOLD_": str(2**34),  # which keeps what is freed (bytes),
    "MALLOC_ARENA_MAX": "1",  # and is one for all threads: other heaps end at 64 MiB
}
"""For glibc's allocator.

Each step frees its activations and asks for the same again. By default they go back to the system
in between, which hands them out page by page, emptied: 30,000 to 150,000 page faults a step of 8
crops. Other allocators than glibc's do not heed these.
"""

HUGE_PAGES_ENV = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""For glibc's allocator, from 2.35 on: memory in pages of 2 MB, where the system lets programs ask.

A step walks through a gigabyte of activations; in pages of 4 kB the processor looks up where each
one is.
"""

OPENMP_WAIT_ENV = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "10000",
}
"""For OpenMP's threads, which wait for each other a thousand times a step.

By default they spin while they do, and starve whoever else needs the core: another worker, Ray
Data. PASSIVE alone sends them to sleep at once, and to wake one takes longer than most waits: a
step of two threads took 1.2 times as long. So they spin for some microseconds, then sleep.
"""

CPU_TRAINING_ENV = MALLOC_RETAIN_ENV | HUGE_PAGES_ENV | OPENMP_WAIT_ENV
