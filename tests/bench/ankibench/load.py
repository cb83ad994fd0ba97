"""Concurrent load: several processes, each with some users' raw clients in threads."""

from __future__ import annotations

import multiprocessing
import threading
import time
from dataclasses import dataclass, field

from .datasets import Dataset
from .metering import Meter
from .protocol import Connection, Device

REVIEWS = 10


@dataclass(frozen=True)
class Plan:
    url: str
    users: list[tuple[str, str]]
    light: Dataset
    seconds: float
    heavy_user: tuple[str, str] | None = None
    heavy: Dataset | None = None


@dataclass
class Result:
    syncs: list[float] = field(default_factory=list)
    requests: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    transfers: int = 0
    client_cpu: float = 0.0
    elapsed: float = 0.0


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def run(plan: Plan, processes: int, meter: Meter) -> Result:
    """Load the server for the planned time; the meter covers just that time."""
    context = multiprocessing.get_context("spawn")
    workers = processes + bool(plan.heavy_user)
    barrier, queue = context.Barrier(workers + 1), context.Queue()
    jobs = [(_light, (plan, plan.users[i::processes], barrier, queue)) for i in range(processes)]
    if plan.heavy_user:
        jobs.append((_heavy, (plan, barrier, queue)))
    started = [context.Process(target=target, args=args) for target, args in jobs]
    for process in started:
        process.start()
    barrier.wait(120)
    with meter:
        parts: list[Result] = [queue.get(timeout=plan.seconds + 300) for _ in started]
    total = Result(elapsed=plan.seconds)
    for part in parts:
        total.syncs += part.syncs
        total.requests += part.requests
        total.errors += part.errors
        total.transfers += part.transfers
        total.client_cpu += part.client_cpu
        total.elapsed = max(total.elapsed, part.elapsed)
    for process in started:
        process.join()
    return total


def _light(plan: Plan, users: list, barrier, queue) -> None:
    result = Result()
    info, body = plan.light.info, plan.light.compressed.read_bytes()
    devices = [_device(plan.url, user, info, body) for user in users]
    barrier.wait(120)
    begin, cpu = time.perf_counter(), time.process_time()
    threads = [
        threading.Thread(target=_loop, args=(device, begin + plan.seconds, result)) for device in devices
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    result.elapsed = time.perf_counter() - begin
    result.client_cpu = time.process_time() - cpu
    queue.put(result)


def _device(url: str, user: tuple[str, str], info: dict, body: bytes) -> Device:
    conn = Connection(url)
    conn.login(*user)
    conn.upload(body)
    device = Device(conn, info)
    device.join()
    device.push_reviews(REVIEWS)  # warm up
    return device


def _loop(device: Device, deadline: float, result: Result) -> None:
    device.conn.timings = []
    while (begin := time.perf_counter()) < deadline:
        try:
            device.push_reviews(REVIEWS)
            result.syncs.append(time.perf_counter() - begin)
        except Exception as error:  # noqa: BLE001 - whatever goes wrong is a figure of the report
            result.errors.append(f"{type(error).__name__}: {error}")
            time.sleep(0.05)
    result.requests += [seconds for _, seconds in device.conn.timings]
    device.conn.close()


def _heavy(plan: Plan, barrier, queue) -> None:
    body = plan.heavy.compressed.read_bytes()
    result = Result()
    with Connection(plan.url) as conn:
        conn.login(*plan.heavy_user)
        barrier.wait(120)
        deadline, cpu = time.perf_counter() + plan.seconds, time.process_time()
        try:
            while time.perf_counter() < deadline:
                conn.upload(body)
                conn.download()
                result.transfers += 2
        except Exception as error:  # noqa: BLE001 - as above
            result.errors.append(f"big transfer: {type(error).__name__}: {error}")
        result.client_cpu = time.process_time() - cpu
    queue.put(result)
