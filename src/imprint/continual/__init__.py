"""When the documents change: what is new and what is withdrawn, which of two statements holds, who may add what,
and how several adapters become one.

    manifest.py      the documents of a version: since when, brought by whom, in which shard
    changes.py       a folder compared with a version's documents; which passages, and which facts, changed
    conflicts.py     statements that cannot both be true, and the rules that settle them
    corrections.py   what is taught of a change: the old value denied, and both with their dates
    admission.py     the gate through which other people's documents come in
    claims.py        sentences that state something, held against what trusted documents say
    own_words.py     what a model said, which no model is taught
    pending.py       what others brought, and where each document stands; bringing.py: a folder on its way there
    probing.py       a new adapter beside the present one, before it is published
    tombstones.py    what is withheld until it is gone
    erasing.py       every trace of a document taken out of the home
    merging.py       several adapters into one
    federated.py     sites that share adapters and never documents; flower.py: the same on Flower
"""
