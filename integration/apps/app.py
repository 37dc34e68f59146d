"""A merchant's app in Python, standard library only. It knows nothing of SNAP.

    python3 app.py create http://127.0.0.1:9180 INV-1 1001   # create a VA
    python3 app.py serve 3000                                # answer DOKU's calls
"""
import http.server
import json
import sys
import urllib.error
import urllib.request

PREFIX = "    8808"


def create(base, trx_id, customer_no):
    bill = {
        "partnerServiceId": PREFIX,
        "customerNo": customer_no,
        "virtualAccountNo": PREFIX + customer_no,
        "virtualAccountName": "José & Putri <VIP>",
        "trxId": trx_id,
        "totalAmount": {"value": "10000.00", "currency": "IDR"},
        "virtualAccountTrxType": "C",
        "additionalInfo": {
            "channel": "VIRTUAL_ACCOUNT_BANK_PERMATA",
            "url": "https://toko.example/bayar?x=1&y='2'",
        },
    }
    request = urllib.request.Request(
        base + "/virtual-accounts/bi-snap-va/v1.1/transfer-va/create-va",
        data=json.dumps(bill).encode(),  # with spaces and \u escapes, as Python does
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            print(response.read().decode())
    except urllib.error.HTTPError as refused:
        sys.exit(f"HTTP {refused.code}: {refused.read().decode()}")


class Calls(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.endswith("/inquiry"):
            answer = {
                "responseCode": "2002400",
                "responseMessage": "Successful",
                "virtualAccountData": {
                    **{k: asked[k] for k in ("partnerServiceId", "customerNo", "virtualAccountNo", "inquiryRequestId")},
                    "virtualAccountName": "José & Putri <VIP>",
                    "totalAmount": {"value": "11500.00", "currency": "IDR"},
                    "virtualAccountTrxType": "C",
                    "additionalInfo": {"channel": "VIRTUAL_ACCOUNT_BANK_PERMATA", "trxId": "INV-DIPC"},
                },
            }
        else:
            answer = {"responseCode": "2002500", "responseMessage": "Successful"}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    if sys.argv[1] == "create":
        create(*sys.argv[2:])
    else:
        http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Calls).serve_forever()
