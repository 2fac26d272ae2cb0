"""Workers of a study on Ray: one actor for every GPU, or for some CPUs, on one machine or many.

1. Each worker loads the model once; one with other weights or versions than the driver is refused.
2. A worker that is free is given the next job that is missing; what a job finds comes back over Ray as it is found, and
   the driver writes it: no file system is shared.
3. A worker that dies, alone or with its machine, is replaced where there is room, and its job done again.
4. What all jobs need is computed once: contexts and second moments by workers, of which each estimates a part of the
   layers; the driver's cache keeps them.

A job is what must be computed together (:mod:`interp.study.workers`), so numbers do not depend on who does what.
Ray is imported when it is asked for (:mod:`interp.study.on_ray.start`).
"""
