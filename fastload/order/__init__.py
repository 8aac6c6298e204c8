"""The plan: integers only. No I/O, no torch, no stored permutation.

What each file holds:

    arguments   whole numbers in                 hashing      keyed draws
    permute     a computed bijection of [0, n)   shuffle      (epoch, position) -> (shard, row)
    distribute  global batches and each rank's rows
    cursor      one rank's batches in order, and its state
    sampler     what samplers are laid over; Subset
    weighted    with replacement                 stratified   classes in proportion
    buckets     batches of similar length        packing      rows of several documents
    pattern     which of several sources is next, and what each rank is dealt
    mix         one sequence of several
"""
