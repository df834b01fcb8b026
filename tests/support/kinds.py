"""Which tests are slow, or measure, and why a test may be skipped."""

import os
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase, translate

import pytest

# By the names of the tests, the first that fits; one may have the marker in its file too. The rest
# is run for every change, on every Python.
KINDS = {
    "tests/transports/*::*[[]*uvloop*]": "uvloop",
    "tests/docs/test_blocks.py::*": "docs",
    "tests/docs/test_example_*.py::*": "docs",
    "tests/docs/test_operating.py::*steps_of_the_image*": "docs",
    "tests/docs/test_operating.py::*backup_while_serving*": "docs",
    "tests/docs/test_expose.py::test_a_client_talks_through_a_proxy*": "proxies",
    "tests/benchmarks/test_check.py::test_time_sees*": "measure",
    "tests/benchmarks/*": "benches",
    "tests/browser/test_chat.py::*soon_there": "measure",
    "tests/browser/*": "browser",
    "tests/cli/test_metrics.py::*under_full_load*": "measure",
    "tests/cli/test_metrics.py::*hardly_more*": "measure",
    "tests/transports/listener/test_slow_readers.py::*_p99": "measure",
    "tests/transports/listener/test_storm.py::test_a_storm*": "measure",
    "tests/cli/bench/*": "benches",
    "tests/cli/test_json.py::*[[]bench]": "benches",
    "tests/stores/crash/*": "crash",
    "tests/docs/test_several_servers.py::test_two_servers*": "engines",
    "tests/stores/postgresql/*": "engines",
    "tests/stores/shared/*": "engines",
    "tests/stores/valkey/*": "engines",
    "tests/cli/chat/test_prompt.py::*": "terminal",
    "tests/cli/chat/test_lines.py::*while_the_server_is_away*": "terminal",
    "tests/cli/chat/test_terminals.py::*": "terminal",
    "tests/stores/test_conformance.py::*over_one_node_and_several[[][13]]": "races",
    "tests/stores/test_conformance.py::test_a_fault_between_nodes_is_found*": "races",
    "tests/stores/test_conformance.py::test_a_fault_of_a_shared_store_is_found*": "races",
    "tests/stores/test_differing.py::*is_found*": "races",
    "tests/transports/test_conformance.py::*[[]time is quadratic]": "races",
    "tests/transports/client/test_streaming.py::*takes_longer_than*": "races",
    "tests/transports/client/test_streaming.py::*falls_silent*": "races",
    "tests/stores/test_conformance.py::test_deaf_nodes_keep*": "races",
    "tests/core/test_shared_limits.py::test_several_servers_refuse_what_one_would": "races",
    "tests/transports/listener/test_lifecycle.py::test_a_thousand_random_interleavings*": "races",
    "tests/transports/listener/test_stream_races.py::*": "races",
    "tests/transports/listener/test_tls_races.py::*": "races",
    "tests/transports/listener/test_conversation_property.py::*": "races",
    "tests/transports/test_streams_property.py::*": "races",
    "tests/transports/client/test_streaming.py::*once_on_the_wire*": "races",
    "tests/transports/client/test_recovery.py::*": "races",
    "tests/transports/client/test_async_recovery.py::*": "races",
    "tests/transports/client/test_servers.py::*at_random*": "races",
    "tests/transports/client/test_bad_server.py::*": "races",
    "tests/transports/test_conformance.py::*[[]*, in binary]": "races",
    "tests/transports/test_conformance.py::*[[]auto]": "races",
    "tests/transports/test_conformance.py::*keeps_every_rule[[]websocket]": "wires",
    "tests/transports/test_scenario.py::*over_tls*": "wires",
    "tests/transports/websocket/test_served.py::*": "wires",
    "tests/transports/listener/test_tls.py::*": "wires",
    "tests/transports/listener/test_tls_handshakes.py::*": "wires",
    "tests/transports/tls/test_wire.py::*": "wires",
    "tests/cli/test_reload.py::*": "wires",
    "tests/cli/test_checks.py::test_a_wrong_value_is_refused*": "commands",
    "tests/cli/test_settings_in_force.py::*no_sighup_ends*": "commands",
    "tests/cli/test_exec.py::*": "commands",
    "tests/cli/admin/test_kick.py::*": "commands",
    "tests/cli/test_event_sums.py::test_guessing_is_a_log*": "commands",
    "tests/cli/test_event_sums.py::test_guessing_over*10000*": "commands",
    "tests/cli/test_nodes.py::test_a_node_that_takes_nothing_in*": "commands",
    "tests/cli/test_nodes.py::test_each_node_has_an_admin_socket*": "commands",
    "tests/cli/test_settings_in_force.py::test_nodes_get*": "commands",
    "tests/cli/test_settings_in_force.py::test_a_changed_file_is_noticed*": "commands",
    "tests/cli/test_settings_in_force.py::test_reloads_under_load*": "commands",
    "tests/cli/test_verify.py::test_a_store_that_cheats*": "commands",
    "tests/core/test_guesses.py::test_all_unseen_addresses*": "races",
    "tests/cli/test_verify.py::test_the_verdict_on*": "commands",
    "tests/cli/test_verify.py::test_ctrl_c_*": "commands",
    "tests/cli/test_verify.py::*does_not_come_back*": "commands",
    "tests/cli/test_exit_codes.py::test_a_signal_interrupts*": "commands",
    "tests/cli/test_exit_codes.py::test_a_reader_that_went_away*": "commands",
    "tests/cli/test_process.py::test_the_deepest_frames*": "commands",
    "tests/cli/test_process.py::test_nested_lists*": "commands",
    "tests/cli/test_nodes.py::test_a_store_that_is_refused*": "commands",
    "tests/cli/test_serve.py::test_a_second_signal*": "signals",
    "tests/cli/test_nodes.py::*signal*": "signals",
    "tests/cli/test_nodes.py::*cannot_start_again*": "signals",
    "tests/cli/test_nodes.py::*their_parent_is_killed*": "signals",
    "tests/test_run.py::*hangs*[[]in workers]": "signals",
    "tests/test_run.py::*no_signal_ends*": "signals",
    "tests/test_run.py::test_nothing_is_left_of*": "signals",
    "tests/*/test_interrupts.py::*[[]20000]": "signals",
    "tests/*/test_interrupts.py::*[[]each place]": "signals",
}
_MARKERS = frozenset(KINDS.values())
_ANY_OF_THEM = re.compile("|".join(map(translate, KINDS)))  # nearly all tests fit none
# Reasons for which a test is skipped although nothing is missing.
_FITTING = re.compile(r"since 3\.\d+$|Linux|epoll|click's own help|only one processor")


def mark(items: Iterable[pytest.Item]) -> None:
    """Give each test of the table its kind's marker, and all that have one `slow`."""
    for item in items:
        name = item.nodeid
        if _ANY_OF_THEM.match(name):
            item.add_marker(next(kind for fits, kind in KINDS.items() if fnmatchcase(name, fits)))
        if any(mark.name in _MARKERS for mark in item.iter_markers()):
            item.add_marker("slow")


def fail_if_something_is_missing(report: pytest.TestReport) -> None:
    """Turn a skip into a failure where TESTS_SKIP_NOTHING says that everything is there."""
    if report.skipped and os.environ.get("TESTS_SKIP_NOTHING") and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not _FITTING.search(reason):
            report.outcome = "failed"
            report.longrepr = f"TESTS_SKIP_NOTHING is set, and this test was skipped: {reason}"
