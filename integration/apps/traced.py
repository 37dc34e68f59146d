"""The app in app.py, traced: it tells a collector of its own spans, by OTLP, standard library only.

    python3 traced.py create http://127.0.0.1:9180 INV-1 1001   # create a VA
    python3 traced.py serve 3000                                # answer DOKU's calls

OTEL_EXPORTER_OTLP_ENDPOINT says where the collector is.
"""
import contextlib
import http.server
import json
import os
import secrets
import sys
import time
import urllib.request

import app

CLIENT, SERVER = 3, 2  # kinds of spans


@contextlib.contextmanager
def span(name, kind, parent=None):
    """Records a span, in the trace of the traceparent given or in a new one, and gives its own."""
    _, trace_id, parent_id, _ = (parent or f"00-{secrets.token_hex(16)}--01").split("-")
    span_id, start = secrets.token_hex(8), time.time_ns()
    yield f"00-{trace_id}-{span_id}-01"
    told = {
        "traceId": trace_id, "spanId": span_id, "parentSpanId": parent_id, "name": name, "kind": kind,
        "startTimeUnixNano": str(start), "endTimeUnixNano": str(time.time_ns()),
    }
    service = {"key": "service.name", "value": {"stringValue": "toko"}}
    request = urllib.request.Request(
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] + "/v1/traces",
        data=json.dumps({"resourceSpans": [{"resource": {"attributes": [service]}, "scopeSpans": [{"spans": [told]}]}]}).encode(),
        headers={"Content-Type": "application/json"},
    )
    urllib.request.build_opener().open(request, timeout=10).close()


class Calls(app.Calls):
    def do_POST(self):
        with span("answer DOKU", SERVER, self.headers.get("traceparent")):
            super().do_POST()


if __name__ == "__main__":
    if sys.argv[1] == "create":
        with span("create a virtual account", CLIENT) as traceparent:
            opener = urllib.request.build_opener()
            opener.addheaders = [("traceparent", traceparent)]
            urllib.request.install_opener(opener)
            app.create(*sys.argv[2:])
    else:
        http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Calls).serve_forever()
