"""A merchant's app in Python: standard library only, and nothing of SNAP in it.

The sidecar beside it does the signing and the checking. Python 3.9 or later.

    python3 merchant.py create http://127.0.0.1:9180 INV-1 1001   # make a VA
    python3 merchant.py update http://127.0.0.1:9180 INV-1 1001   # change its amount
    python3 merchant.py status http://127.0.0.1:9180 INV-1 1001   # is it paid?
    python3 merchant.py delete http://127.0.0.1:9180 INV-1 1001
    PORT=3000 python3 merchant.py serve                           # answer DOKU's calls

The URL is where doku_sign listens. Without the last argument, DOKU makes the
number. PARTNER_SERVICE_ID is your prefix, padded with spaces to 8 characters.
"""
import json
import os
import sys
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CHANNEL = "VIRTUAL_ACCOUNT_BANK_PERMATA"
NAME = "José & Putri <VIP>"  # on purpose: what JSON encoders write in different ways
LARGEST_BODY = 1 << 20

# ---- The app calls DOKU ----------------------------------------------------

CALLS = {
    "create": ("POST", "/virtual-accounts/bi-snap-va/v1.1/transfer-va/create-va"),
    "update": ("PUT", "/virtual-accounts/bi-snap-va/v1.1/transfer-va/update-va"),
    "delete": ("DELETE", "/virtual-accounts/bi-snap-va/v1.1/transfer-va/delete-va"),
    "status": ("POST", "/orders/v1.0/transfer-va/status"),
}


def request_body(command, trx_id, customer_no):
    prefix = os.environ.get("PARTNER_SERVICE_ID", "    8808")
    number = {
        "partnerServiceId": prefix,
        "customerNo": customer_no,
        "virtualAccountNo": prefix + customer_no,
    }
    if command == "status":
        return {**number, "additionalInfo": {}}
    if command == "delete":
        return {**number, "trxId": trx_id, "additionalInfo": {"channel": CHANNEL}}
    config = {"reusableStatus": False}
    if command == "update":
        config["status"] = "ACTIVE"
    return {
        **number,
        "virtualAccountName": NAME,
        "trxId": trx_id,
        "totalAmount": {"value": "175000.00" if command == "update" else "150000.00", "currency": "IDR"},
        "additionalInfo": {
            "channel": CHANNEL,
            "returnUrl": f"https://toko.example/bayar?invoice={trx_id}&promo='hemat'",
            "note": "Terima kasih 🙏",
            "virtualAccountConfig": config,
        },
        "virtualAccountTrxType": "C",
    }


def call(command, base, trx_id, customer_no):
    """Posts plain JSON, prints the answer as one line, and says if it was HTTP 200."""
    method, path = CALLS[command]
    request = urllib.request.Request(
        base + path,
        method=method,
        data=json.dumps(request_body(command, trx_id, customer_no)).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        response = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as refusal:
        response = refusal  # any status but 2xx: an answer too
    with response:
        text = response.read(LARGEST_BODY).decode()
    try:
        body = json.loads(text)
    except ValueError:
        body = text
    headers = {name.lower(): value for name, value in response.headers.items()}
    print(json.dumps({"status": response.status, "body": body, "headers": headers}))
    return response.status == 200


# ---- DOKU calls the app, through the sidecar -------------------------------


def inquiry(asked):
    """What does this customer owe? The number's parts go back as they came, spaces too."""
    if asked["customerNo"].endswith("404"):
        return 404, {"responseCode": "4042412", "responseMessage": "Invalid Bill/Virtual Account [Not Found]"}
    return 200, {
        "responseCode": "2002400",
        "responseMessage": "Successful",
        "virtualAccountData": {
            **{name: asked[name] for name in ("partnerServiceId", "customerNo", "virtualAccountNo", "inquiryRequestId")},
            "virtualAccountName": NAME,
            "totalAmount": {"value": "150000.00", "currency": "IDR"},
            "virtualAccountTrxType": "C",
            "additionalInfo": {"channel": CHANNEL, "trxId": "INV-" + asked["customerNo"]},
            "inquiryStatus": "00",
            "inquiryReason": {"english": "Success", "indonesia": "Sukses"},
        },
    }


def payment(asked):
    """A real app marks the invoice as paid here, once for each paymentRequestId, before it says yes."""
    echoed = ("partnerServiceId", "customerNo", "virtualAccountNo", "virtualAccountName", "trxId", "paymentRequestId", "paidAmount")
    return 200, {
        "responseCode": "2002500",
        "responseMessage": "Successful",
        "virtualAccountData": {name: asked[name] for name in echoed},
    }


SERVICES = {"/transfer-va/inquiry": ("24", inquiry), "/transfer-va/payment": ("25", payment)}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections stay open
    timeout = 60

    # For tests: the calls seen, and the status to answer with. A real app has neither.
    lock = threading.Lock()
    calls = []
    status = 200

    def handle_call(self):
        length = int(self.headers.get("Content-Length", 0))
        if length > LARGEST_BODY or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # the body stays unread
            return self.answer(413, {"error": "body too large or of unknown length"})
        body = self.rfile.read(length)
        if self.path == "/_calls":
            with self.lock:
                return self.answer(200, list(Handler.calls))
        if self.path == "/_mode":
            Handler.status = json.loads(body)["status"]
            return self.answer(200, {"status": Handler.status})
        with self.lock:
            Handler.calls.append({
                "method": self.command,
                "path": self.path,
                "headers": {name.lower(): value for name, value in self.headers.items()},
                "body": body.decode(errors="replace"),
            })
        for suffix, (service, answer) in SERVICES.items():
            if self.command == "POST" and self.path.endswith(suffix):
                if Handler.status != 200:
                    return self.answer(Handler.status, {"responseCode": f"{Handler.status}{service}00", "responseMessage": "General Error"})
                try:
                    return self.answer(*answer(json.loads(body)))
                except (ValueError, KeyError, TypeError, AttributeError):
                    return self.answer(400, {"responseCode": f"400{service}00", "responseMessage": "Bad Request"})
        self.answer(404, {"error": "not found"})

    do_GET = do_POST = do_PUT = do_DELETE = handle_call

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main(arguments):
    command, base, trx_id, customer_no = (arguments + [""] * 4)[:4]
    if command == "serve":
        server = ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", 3000))), Handler)
        print(f"listening 127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()
    if command not in CALLS or not base:
        sys.exit(__doc__)
    trx_id = trx_id or os.environ.get("TRX_ID") or f"INV-{time.time_ns()}"
    customer_no = customer_no or os.environ.get("CUSTOMER_NO") or "0"
    sys.exit(0 if call(command, base, trx_id, customer_no) else 1)


if __name__ == "__main__":
    main(sys.argv[1:])
