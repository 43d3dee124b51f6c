"""When the documents change: what is new and what is withdrawn, which of two statements holds, who may add what,
and how several adapters become one.

    what changed     changes.py: a folder against a version's documents; manifest.py: all editions, since when,
                     whose, in which shard; shards.py: which documents share an adapter; entries.py: what details
                     tell of each adapter; predecessor.py: which of them knows what, and what of that still stands
    which facts      fact_changes.py: two editions compared in words; histories.py: what was said of one thing, from
                     when until when; ledger.py: all of that over a name's versions
    who holds        conflicts.py: what cannot both be true, and the rules that settle it; beliefs.py: what the base
                     believes; verdicts.py: what is done about it before training
    what is taught   corrections.py: the old value denied, both with their dates; lessons.py: what a shard of the
                     next version is trained on; ways.py: three ways to it and what each takes
    forgetting       tombstones.py: what is withheld until it is gone; erasing.py: every trace taken out;
                     deletion_report.py: what is still known
    other people     admission.py: the gate; claims.py: statements held against trusted ones; own_words.py: what a
                     model said; pending.py: what was brought, and where it stands; bringing.py: a folder on its way
                     there; probing.py: a new adapter beside the present one
    several as one   merging.py, merged.py: adapters into one, with the loss of each; federated.py: sites that share
                     adapters and never documents; shared_folder.py, site.py: as plain files; flower.py: on Flower
"""
