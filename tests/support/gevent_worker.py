"""The stores as a worker of gevent has them: `python -m tests.support.gevent_worker ENDPOINT BUCKET FOLDER`.

Many greenlets use local and S3 stores at once, blocking work in the hub's threads; prints what each made.
"""

from gevent import monkey

monkey.patch_all()

import sys  # noqa: E402  what is patched must be imported after the patch
from pathlib import Path  # noqa: E402

import gevent  # noqa: E402

from storage.heads.local import LocalHeadStore  # noqa: E402
from storage.objects.local import LocalObjectStore  # noqa: E402
from storage.objects.s3 import S3ObjectStore  # noqa: E402
from tests.support import aws  # noqa: E402
from tests.support.records import collection_of, head_update_of, journal_entry, new_session  # noqa: E402

GREENLETS, TURNS = 12, 6


def offload(function):
    return gevent.get_hub().threadpool.apply(function)


def sync(heads, objects, number):
    database = collection_of(f"user{number}")
    for turn in range(TURNS):
        token = heads.open_session(database, new_session(f"{turn}")).token
        heads.append(database, f"{turn}", journal_entry())
        objects.put(f"d/{number}/{turn}", b"delta" * 1000)
        heads.advance_head(database, head_update_of(turn, token, session=f"{turn}", seq=2))
    return heads.find(database).version


def media(objects, number):
    items = [(f"m/{number}/{turn}", bytes([turn]) * 200_000) for turn in range(25)]
    objects.put_many(items)
    whole = all(b"".join(objects.stream(key)) == content for key, content in items)
    objects.delete(key for key, _ in items)
    return whole and not list(objects.list(f"m/{number}/"))


def main(endpoint, bucket, folder):
    heads = LocalHeadStore(Path(folder) / "heads.db", offload)
    local = LocalObjectStore(Path(folder), offload)
    s3 = S3ObjectStore(aws.s3_client(endpoint), bucket, "gevent/", offload=offload)
    syncs = [gevent.spawn(sync, heads, local, number) for number in range(GREENLETS)]
    files = [gevent.spawn(media, store, number) for store in (local, s3) for number in range(3)]
    gevent.joinall(syncs + files, raise_error=True, timeout=120)
    print(all(job.value == TURNS for job in syncs), all(job.value for job in files))


if __name__ == "__main__":
    main(*sys.argv[1:])
