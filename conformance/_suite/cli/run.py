"""
``nox -s conformance``: one run, from top to bottom.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from dataclasses import replace
from datetime import UTC, datetime
from enum import Enum, auto
from pathlib import Path
from typing import TYPE_CHECKING

import conformance as suite
from conformance._suite import evidence, verdict, workload
from conformance._suite.cli.asked import Asked, documented_images, output_folder
from conformance._suite.cli.display import Display
from conformance._suite.cli.interrupts import deferred, on_interrupt
from conformance._suite.cli.options import run_parser
from conformance._suite.cli.targets import PROVISIONED, brought_up, only_described
from conformance._suite.cluster import Cluster
from conformance._suite.judge.pytest_run import judge, require_readable, select
from conformance._suite.judging import Judging
from conformance._suite.observe import cleanup
from conformance._suite.observe.duration import worst_case
from conformance._suite.observe.engine import Engine
from conformance._suite.observe.plan import Plan
from conformance._suite.preflight.look import look
from conformance._suite.preflight.nodes import with_versions
from conformance._suite.report import write_all
from conformance._suite.timings import NAME, Timings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from conformance._suite.say import Say
    from infra.target import Target


def conformance(arguments: Sequence[str]) -> int:
    """
    Bring the target up, judge its nodes, and take down what was brought up. Returns the exit code.
    """
    options = run_parser().parse(arguments)
    asked = Asked.of(options)
    if asked.expression:
        require_readable(asked.expression)
    display = Display()
    if only_described(options, display.say):
        return 0
    timings = Timings()
    with contextlib.ExitStack() as stack:
        with timings.phase("up"):
            target, died = stack.enter_context(brought_up(options, display.say))
        return asyncio.run(_run(asked, target, died, display, timings))


async def _run(asked: Asked, target: Target, died: Callable[[], bool], display: Display, timings: Timings) -> int:
    """
    One run: preflight, select, observe, judge, report. No step reaches back into one before it.
    """
    started, run_id, say = datetime.now(UTC), secrets.token_hex(4), display.say
    clock = asyncio.get_running_loop().time
    ends = clock() + asked.minutes * 60 if asked.minutes else None
    async with await Cluster.connect(target.kubeconfig, target.context) as api:
        with timings.phase("preflight"):
            cluster, nodes = await look(
                api, target.name, asked.choice, asked.expectations, asked.needs, say, simulated=target.simulated
            )
        # Here it is known which nodes there are, and so which cells.
        judging = Judging(Path(), run_id, started.isoformat(), cluster, nodes)
        observed = with_versions(nodes, say)
        selected = select(judging, asked.expression)
        selected.require_any()
        for left in await cleanup.reap(api, asked.needs.namespace, say, everything=False):
            say(f"left behind by an earlier run: {left}")

        out = output_folder(asked.out, f"{started:%Y%m%dT%H%M%SZ}-{run_id}")
        evidence.write_json(out / "run.json", {
            "suite": suite.__version__, "started": started.isoformat(),
            "judging": judging.to_data(), "expression": asked.expression,
            "defects": asked.defects,
            "images": {one: asked.images.resolve(one) for one in sorted(documented_images())},
        })  # fmt: skip
        judging = replace(judging, out=out.resolve(), run_digest=evidence.digest(out / "run.json"))
        display.header(cluster, nodes, out)

        workloads = tuple(workload.load(name) for name in selected.workloads(judging))
        plan = Plan(run_id, out, cluster, observed, workloads, asked.images, asked.time_scale, asked.needs.namespace,
                    listener_port=asked.listener_port, api_server=api.url)  # fmt: skip
        display.duration(*worst_case(plan), asked.minutes)
        engine = Engine(api, plan, display.progress, died, say)
        try:
            with timings.phase("observe"):
                end = await observe(engine, target, died, display, None if ends is None else ends - clock())
            timings.counts |= {"nodes": len(observed), "pods": engine.pods, "requests": api.requests}
            with timings.phase("judge"):
                run = judge(judging, selected, out, started=started, workers=asked.workers,
                            interrupted=end is End.INTERRUPTED, defects=asked.defects, notes=_notes(end, asked, engine),
                            allure=asked.allure)  # fmt: skip
            with deferred(lambda: say("the verdict is there; writing the reports")):
                write_all(run, say, timings, allure=asked.allure)
        finally:
            # A cluster that goes with this run takes along what is still going in it.
            if target.name == "existing":
                with timings.phase("clean-up"):
                    await _say_what_is_left(api, engine.going, say)
    with contextlib.suppress(OSError):  # a disk that is full has no say in the verdict
        evidence.write_json(out / NAME, timings.to_json())
    display.verdict(run)
    return run.exit_code


class End(Enum):
    """
    How observing ended: with everything, when its time was over, or because somebody interrupted it.
    """

    COMPLETE = auto()
    OUT_OF_TIME = auto()
    INTERRUPTED = auto()


def _notes(end: End, asked: Asked, engine: Engine) -> tuple[str, ...]:
    if end is not End.OUT_OF_TIME:
        return tuple(engine.remarks)
    return (
        *engine.remarks,
        f"ended by --deadline after {asked.minutes:g} minutes; what had not been seen by then is not proven",
    )


async def observe(
    engine: Engine, target: Target, died: Callable[[], bool], display: Display, seconds: float | None = None
) -> End:
    """
    Observe, for so many ``seconds`` at most, and say how far that is and what could not be put back. Ctrl-C cleans up;
    the third one leaves it.
    """
    observation = asyncio.create_task(engine.observe())
    times = 0

    def expire() -> None:
        if engine.cleaning_up or times:  # all was observed in time, or the user ends it already
            return
        display.say("the time of --deadline is over: cleaning up, at most five minutes")
        engine.out_of_time("the time of --deadline was over before that was seen")
        observation.cancel()

    timer = None if seconds is None else asyncio.get_running_loop().call_later(max(seconds, 0), expire)

    def interrupt() -> None:
        nonlocal times
        times += 1
        if died():
            observation.cancel()
        elif times == 1:
            display.say("interrupted: cleaning up, at most five minutes; Ctrl-C twice more to leave it")
            observation.cancel()
        elif times == 3 and target.name in PROVISIONED:
            observation.cancel()  # the whole cluster is taken down now
        elif times == 3:
            left = ", ".join(map(str, engine.going))
            display.say(f"left behind: {left}, and what is on the hosts; `nox -s cleanup -- --all` takes it away")
            os._exit(verdict.EXIT_INTERRUPTED)

    try:
        with on_interrupt(interrupt):
            await observation
    except asyncio.CancelledError:
        return End.INTERRUPTED if times or died() else End.OUT_OF_TIME
    finally:
        if timer is not None:
            timer.cancel()
        display.progress_ended()
        for untidy in engine.untidy:
            display.say(f"left behind: {untidy}")
    return End.COMPLETE


async def _say_what_is_left(api: Cluster, going: Sequence[cleanup.Going], say: Say) -> None:
    waiting = asyncio.create_task(cleanup.left_behind(api, going))
    try:
        with on_interrupt(waiting.cancel):
            for left in await waiting:
                say(f"left behind: {left}")
    except asyncio.CancelledError:
        say(f"left behind, unless it is gone by now: {', '.join(map(str, going))}")
