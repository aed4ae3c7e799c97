"""Calls every method of a node that server reflection shows.

Usage: reflection.py ADDRESS refused|sensible

`refused` calls each method with an empty message, which is refused or only
reads, and with bytes that are no message. `sensible` calls each with a message
that makes sense. Every error must carry a google.rpc.ErrorInfo of the domain
`aether`. Prints what is wrong, and ends with 1 if anything is.
"""

import sys
import time

import grpc
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from grpc_status import rpc_status

# Seconds that one call may take, on a slow and busy machine.
CALL_MAX = 60
# Seconds until an update is deployed, likewise.
DEPLOY_MAX = 120
SLICE = "org.example:hello"
# A message whose first field ends in the middle of its tag.
GARBAGE = b"\xff" * 9

wrong = []


def fail(text):
    wrong.append(text)
    print("WRONG", text)


class Method:
    """One method, and how it is called."""

    def __init__(self, channel, service, descriptor):
        self.name = f"{service.full_name}/{descriptor.name}"
        self.asks = GetMessageClass(descriptor.input_type)
        self.says = GetMessageClass(descriptor.output_type)
        self.client_streams = descriptor.client_streaming
        self.server_streams = descriptor.server_streaming
        ways = {
            (False, False): channel.unary_unary,
            (False, True): channel.unary_stream,
            (True, False): channel.stream_unary,
            (True, True): channel.stream_stream,
        }
        self.call = ways[(self.client_streams, self.server_streams)](
            f"/{self.name}",
            request_serializer=lambda data: data,
            response_deserializer=self.says.FromString,
        )

    def message(self, fields):
        return json_format.ParseDict(fields, self.asks()).SerializeToString()

    def ask(self, messages):
        """The first answer, or the error; None if a stream ended without any."""
        request = iter(messages) if self.client_streams else messages[0]
        try:
            answer = self.call(request, timeout=CALL_MAX)
            if not self.server_streams:
                return answer, None
            first = next(iter(answer), None)
            answer.cancel()
            return first, None
        except grpc.RpcError as error:
            return None, error


def reason_of(method, what, error):
    """The reason of an error, which must be typed."""
    status = rpc_status.from_call(error)
    for detail in status.details if status else []:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            if info.domain != "aether":
                fail(f"{method.name} {what}: domain {info.domain!r}")
            if not error.details():
                fail(f"{method.name} {what}: {info.reason} without a message")
            return info.reason
    fail(f"{method.name} {what}: {error.code()} without ErrorInfo: {error.details()}")
    return ""


def expect(method, what, error, allowed):
    """The error, or its absence, is one of those allowed; `None` is success."""
    got = None
    if error is not None:
        got = (error.code().name, reason_of(method, what, error))
    text = "OK" if got is None else f"{got[0]} {got[1]}: {error.details()}"
    print(f"{method.name} {what}: {text}"[:200])
    if got not in allowed:
        fail(f"{method.name} {what}: expected one of {allowed}, got {text}")


def discover(channel):
    database = ProtoReflectionDescriptorDatabase(channel)
    pool = DescriptorPool(database)
    methods = {}
    for name in sorted(database.get_services()):
        if name.startswith("grpc.reflection."):
            continue
        service = pool.FindServiceByName(name)
        for descriptor in service.methods:
            method = Method(channel, service, descriptor)
            methods[method.name] = method
    return methods


# With an empty message these answer: they only read, and have defaults.
EMPTY_IS_FINE = {
    "aether.v1.Artifacts/List",
    "aether.v1.Cluster/Nodes",
    "aether.v1.Cluster/Status",
    "aether.v1.Slices/List",
    "aether.v1.Updates/List",
    "grpc.health.v1.Health/Check",
    "grpc.health.v1.Health/Watch",
}
MALFORMED = ("INVALID_ARGUMENT", "MALFORMED_MESSAGE")


def refused(methods):
    for method in methods.values():
        _, error = method.ask([b""])
        if method.name in EMPTY_IS_FINE:
            expect(method, "empty", error, [None])
        elif error is None:
            # A method that is not in the list may well have defaults; that it
            # changed nothing is looked at by whoever runs this.
            print(f"{method.name} empty: OK")
        else:
            expect(method, "empty", error, [(error.code().name, reason_of(method, "empty", error))])
            if error.code().name in ("UNKNOWN", "INTERNAL", "UNAVAILABLE", "DEADLINE_EXCEEDED"):
                fail(f"{method.name} empty: {error.code()}: {error.details()}")
        _, error = method.ask([GARBAGE])
        expect(method, "garbage", error, [MALFORMED])


class Story:
    """Sensible calls, in an order in which they make sense."""

    def __init__(self, methods):
        self.methods = methods
        self.called = set()

    def ask(self, name, *messages, allowed=(None,)):
        method = self.methods[name]
        self.called.add(name)
        answer, error = method.ask([method.message(fields) for fields in messages])
        expect(method, "sensible", error, list(allowed))
        return answer

    def read(self):
        ask = self.ask
        ask("grpc.health.v1.Health/Check", {"service": "aether.v1.Updates"})
        ask("grpc.health.v1.Health/Watch", {})
        node = ask("aether.v1.Cluster/Status", {}).node
        ask("aether.v1.Cluster/Nodes", {"pageSize": 1})
        ask("aether.v1.Cluster/KvGet", {"key": "meta/cluster"})
        put = ask("aether.v1.Cluster/KvPut", {"key": "config/a/b", "value": "1", "ifIndex": 0})
        ask(
            "aether.v1.Cluster/KvPut",
            {"key": "config/a/b", "value": "2", "ifIndex": 0},
            allowed=[("ABORTED", "KEY_MODIFIED")],
        )
        ask("aether.v1.Cluster/KvDelete", {"key": "config/a/b", "ifIndex": put.index})
        if not ask("aether.v1.Cluster/SnapshotSave", {}).position.index:
            fail("a snapshot begins without its position")
        listed = ask("aether.v1.Slices/List", {"slice": SLICE}).slices[0]
        ask("aether.v1.Slices/Logs", {"target": SLICE, "tail": 1})
        first = ask("aether.v1.Artifacts/List", {"pageSize": 1})
        rest = ask("aether.v1.Artifacts/List", {"pageToken": first.next_page_token})
        names = [a.artifact for a in [*first.artifacts, *rest.artifacts]]
        if names != [f"{SLICE}:1.0.0", f"{SLICE}:2.0.0"]:
            fail(f"two pages of artifacts are {names}")
        known = ask("aether.v1.Artifacts/Info", {"artifact": f"{SLICE}:1.0.0"})
        piece = ask("aether.v1.Artifacts/Fetch", {"sha256": known.sha256})
        if not piece.chunk:
            fail("an archive has no bytes")
        ask(
            "aether.v1.Artifacts/Push",
            {"header": {"artifact": f"{SLICE}:1.0.0", "sha256": "0" * 64, "sizeBytes": 1}},
            allowed=[("FAILED_PRECONDITION", "ARTIFACT_DIFFERS")],
        )
        ask("aether.v1.AgentLogs/Find", {"slice": SLICE, "version": "1.0.0"})
        here = [i for i in listed.instances_state if i.node == node]
        instance = here[0].instance_id
        ask("aether.v1.AgentLogs/Read", {"instanceIds": [instance], "tail": 1})

    def update(self):
        ask = self.ask
        ask("aether.v1.Updates/Plan", {"artifactBase": SLICE, "version": "2.0.0"})
        started = ask("aether.v1.Updates/Start", {"artifactBase": SLICE, "version": "2.0.0"})
        this = {"updateId": started.update_id}
        deadline = time.monotonic() + DEPLOY_MAX
        while ask("aether.v1.Updates/Get", this).state != "DEPLOYED":
            if time.monotonic() > deadline:
                fail("the update is not deployed")
                break
            time.sleep(0.2)
        ask("aether.v1.Updates/List", {"all": True, "pageSize": 5})
        ask("aether.v1.Updates/Watch", this)
        ask("aether.v1.Updates/Explain", this)
        ask("aether.v1.Updates/History", this)
        ask("aether.v1.Updates/Replay", this)
        ask("aether.v1.Updates/Diff", this)
        ask("aether.v1.Updates/SetOptions", {**this, "maxLatencyMs": 60_000})
        ask("aether.v1.Updates/SetRouting", {**this, "routing": "1:1"})
        ask("aether.v1.Updates/Health", this)
        state = "FAILED_PRECONDITION"
        ask("aether.v1.Updates/Approve", this, allowed=[(state, "NOTHING_TO_APPROVE")])
        ask("aether.v1.Updates/Resume", this, allowed=[(state, "NOT_PAUSED")])
        ask("aether.v1.Updates/Pause", {**this, "why": "a look"})
        ask("aether.v1.Updates/Resume", this)
        ask("aether.v1.Updates/Promote", this, allowed=[(state, "HAS_NO_STEPS")])
        ask("aether.v1.Updates/Complete", this, allowed=[(state, "NOT_ALL_NEW")])
        stale = {**this, "routing": "1:3", "ifModified": 1}
        ask("aether.v1.Updates/SetRouting", stale, allowed=[("ABORTED", "MODIFIED")])
        ask("aether.v1.Updates/Rollback", this)
        # No completed update keeps its old set.
        none = [(state, "NOTHING_TO_UNDO"), ("NOT_FOUND", "UNKNOWN_UPDATE")]
        ask("aether.v1.Updates/Undo", {"updateId": "current"}, allowed=none)
        ask("aether.v1.Updates/Cleanup", {"updateId": "current"}, allowed=none)

    def change(self):
        ask = self.ask
        green = f"{SLICE}@green"
        ask("aether.v1.Slices/Deploy", {"artifact": f"{SLICE}:1.0.0@green"})
        ask("aether.v1.Slices/Scale", {"slice": green, "instances": 2})
        ask("aether.v1.Slices/SetCurrent", {"slice": green, "version": "1.0.0"})
        ask("aether.v1.Slices/Undeploy", {"slice": green})
        for schedule in ["CORDONED", "OPEN"]:
            ask("aether.v1.Cluster/SetNodeSchedule", {"node": "n0", "schedule": schedule})
        used = [("FAILED_PRECONDITION", "NODE_IN_USE")]
        ask("aether.v1.Cluster/ForgetNode", {"node": "n0"}, allowed=used)
        cluster = ask("aether.v1.Cluster/Status", {}).cluster
        me = {"cluster": cluster, "node": "n9", "dirId": "py"}
        uninvited = [("FAILED_PRECONDITION", "NOT_INVITED")]
        ask("aether.v1.Voters/Join", me, allowed=uninvited)
        ask("aether.v1.Voters/Add", {"node": "n9", "peerAddress": "127.0.0.1:1"})
        if not ask("aether.v1.Voters/List", {}).changes:
            fail("who was invited is not listed")
        ask("aether.v1.Voters/Remove", {"node": "n9"})
        ask("aether.v1.Voters/TransferLeader", {}, allowed=[("FAILED_PRECONDITION", "NO_SUCCESSOR")])
        hello = {"sessionId": "py", "kind": "INVOKER", "name": "py", "protocol": 1, "attach": 1}
        ask("aether.v1.Routing/Watch", {"hello": hello})
        hello = {"node": "py", "address": "127.0.0.1:1", "protocol": 1, "life": 1, "attach": 1}
        ask("aether.v1.Agents/Attach", {"hello": hello})

    def others(self):
        """Methods that this file does not know: with names that exist."""
        for name, method in self.methods.items():
            if name in self.called:
                continue
            known = {"updateId": "current", "slice": SLICE, "node": "n0", "key": "meta/cluster"}
            fields = {f.json_name for f in method.asks.DESCRIPTOR.fields}
            message = method.message({k: v for k, v in known.items() if k in fields})
            _, error = method.ask([message])
            if error is None:
                print(f"{name} with what it may need: OK")
            else:
                reason_of(method, "with what it may need", error)


def main():
    address, what = sys.argv[1:]
    with grpc.insecure_channel(address) as channel:
        methods = discover(channel)
        print(f"{len(methods)} methods")
        if what == "refused":
            refused(methods)
        else:
            story = Story(methods)
            story.read()
            story.update()
            story.change()
            story.others()
    print(f"{len(wrong)} wrong")
    sys.exit(1 if wrong else 0)


main()
