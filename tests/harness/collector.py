"""A collector of traces, as OpenTelemetry's protocol has it."""

import concurrent.futures
import threading

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

METHOD = "opentelemetry.proto.collector.trace.v1.TraceService"


class Span:
    """A span: its name, what it says, and where it belongs."""

    def __init__(self, span):
        self.name = span.name
        self.id, self.parent, self.trace = span.span_id, span.parent_span_id, span.trace_id
        self.said = {pair.key: plain(pair.value) for pair in span.attributes}

    def __repr__(self):
        return f"{self.name} {self.said}"


def plain(value):
    kind = value.WhichOneof("value")
    return getattr(value, kind) if kind else None


class Collector:
    """Listens on a port of its own and keeps what it is sent."""

    def __init__(self):
        # By their ids: what was not acknowledged in time is sent again.
        self._spans, self._lock = {}, threading.Lock()
        self._server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
        handlers = {
            "Export": grpc.unary_unary_rpc_method_handler(
                self._export,
                request_deserializer=trace_service_pb2.ExportTraceServiceRequest.FromString,
                response_serializer=trace_service_pb2.ExportTraceServiceResponse.SerializeToString,
            )
        }
        handler = grpc.method_handlers_generic_handler(METHOD, handlers)
        self._server.add_generic_rpc_handlers((handler,))
        self.endpoint = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def _export(self, request, _):
        with self._lock:
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    self._spans.update((span.span_id, Span(span)) for span in scope.spans)
        return trace_service_pb2.ExportTraceServiceResponse()

    def spans(self, name, **said):
        """Those of a name that say all of this."""
        with self._lock:
            return [
                span
                for span in self._spans.values()
                if span.name == name and said.items() <= span.said.items()
            ]

    def above(self, span):
        """The span that another one is part of, if it has come."""
        with self._lock:
            return self._spans.get(span.parent)

    def stop(self):
        self._server.stop(None).wait()
