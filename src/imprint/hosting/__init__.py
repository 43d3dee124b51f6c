"""One base model for many tenants: what a server does, without the network.

    host.py       Host: the base in memory, what is asked of it, and by which name
    tenants.py    each tenant's own home, with its own registry, files and jobs
    keys.py       which key belongs to which tenant
    uploads.py    files that a tenant has brought
    material.py   uploads become a folder of documents
    jobs.py       what is known of each teaching job
    teaching.py   the jobs done, one after the other, beside the serving
"""
