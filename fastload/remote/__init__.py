"""Data behind URLs, read through a verified cache on the local disk.

settings.py   Remote: where the cache is, how large, and how long to try
urls.py       what a URL consists of, and how it is shown
answers.py    what a store answers, and why it gives nothing
transfer.py   one request: obstore for s3, gs, az, http and https; fsspec for the rest
forked.py     the same in a process of its own, for a process that was forked from one that used obstore
fetch.py      a whole object, tried again and checked
cache.py      objects as files: each fetched once, kept under a limit, shared by all processes of a machine
folder.py     the files of a cache: names, locks, room
pace.py       how fast a server gives objects, and what a cache has of them in the next epoch
"""
