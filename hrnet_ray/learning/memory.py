"""What glibc's allocator should know about training on a CPU."""

KEEP_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",  # large tensors too come from the heap,
    "MALLOC_TRIM_THRESHOLD_": str(2**34),  # which keeps what is freed (bytes),
    "MALLOC_ARENA_MAX": "1",  # and is one for all threads: other heaps end at 64 MiB
}
"""Environment of a process that trains, to be set before it starts.

Each step frees its activations and asks for the same again. By default they go back to the system
in between, which hands them out page by page, emptied: 30,000 to 150,000 page faults a step of 8
crops. Other allocators than glibc's do not heed these.
"""
