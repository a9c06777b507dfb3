"""Rows that Ray can neither find nor make again."""

import ray


def orphaned(block: ray.ObjectRef) -> ray.ObjectRef:
    """The same rows, in the hands of a process that is gone."""

    class Owner:
        def own(self, table: object) -> list[ray.ObjectRef]:
            return [ray.put(table)]

    owner = ray.remote(num_cpus=0)(Owner).remote()
    (ref,) = ray.get(owner.own.remote(block))
    ray.kill(owner)  # pyright: ignore[reportArgumentType]
    return ref
