// A merchant's app in Node: no packages, and nothing of SNAP in it.
//
// The sidecar beside it does the signing and the checking. Node 18 or later.
//
//     node merchant.mjs create http://127.0.0.1:9180 INV-1 1001   # make a VA
//     node merchant.mjs update http://127.0.0.1:9180 INV-1 1001   # change its amount
//     node merchant.mjs status http://127.0.0.1:9180 INV-1 1001   # is it paid?
//     node merchant.mjs delete http://127.0.0.1:9180 INV-1 1001
//     PORT=3000 node merchant.mjs serve                           # answer DOKU's calls
//
// The URL is where doku_sign listens. Without the last argument, DOKU makes the
// number. PARTNER_SERVICE_ID is your prefix, padded with spaces to 8 characters.
import http from "node:http";

const channel = "VIRTUAL_ACCOUNT_BANK_PERMATA";
const name = "José & Putri <VIP>"; // on purpose: what JSON encoders write in different ways
const largestBody = 1 << 20;

// ---- The app calls DOKU ----------------------------------------------------

const calls = {
  create: ["POST", "/virtual-accounts/bi-snap-va/v1.1/transfer-va/create-va"],
  update: ["PUT", "/virtual-accounts/bi-snap-va/v1.1/transfer-va/update-va"],
  delete: ["DELETE", "/virtual-accounts/bi-snap-va/v1.1/transfer-va/delete-va"],
  status: ["POST", "/orders/v1.0/transfer-va/status"],
};

function requestBody(command, trxId, customerNo) {
  const prefix = process.env.PARTNER_SERVICE_ID ?? "    8808";
  const number = { partnerServiceId: prefix, customerNo, virtualAccountNo: prefix + customerNo };
  if (command === "status") return { ...number, additionalInfo: {} };
  if (command === "delete") return { ...number, trxId, additionalInfo: { channel } };
  const update = command === "update";
  return {
    ...number,
    virtualAccountName: name,
    trxId,
    totalAmount: { value: update ? "175000.00" : "150000.00", currency: "IDR" },
    additionalInfo: {
      channel,
      returnUrl: `https://toko.example/bayar?invoice=${trxId}&promo='hemat'`,
      note: "Terima kasih 🙏",
      virtualAccountConfig: update ? { reusableStatus: false, status: "ACTIVE" } : { reusableStatus: false },
    },
    virtualAccountTrxType: "C",
  };
}

// Posts plain JSON, prints the answer as one line, and says if it was HTTP 200.
async function call(command, base, trxId, customerNo) {
  const [method, path] = calls[command];
  const response = await fetch(base + path, {
    method,
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(requestBody(command, trxId, customerNo)),
    signal: AbortSignal.timeout(30_000),
  });
  let body = await response.text();
  try {
    body = JSON.parse(body);
  } catch {
    // not JSON: shown as text
  }
  console.log(JSON.stringify({ status: response.status, body, headers: Object.fromEntries(response.headers) }));
  return response.status === 200;
}

// ---- DOKU calls the app, through the sidecar -------------------------------

const pick = (from, ...names) =>
  Object.fromEntries(
    names.map((field) => {
      if (from[field] === undefined) throw new TypeError(`expected ${field}`);
      return [field, from[field]];
    }),
  );

// What does this customer owe? The number's parts go back as they came, spaces too.
function inquiry(asked) {
  const echoed = pick(asked, "partnerServiceId", "customerNo", "virtualAccountNo", "inquiryRequestId");
  if (asked.customerNo.endsWith("404")) {
    return [404, { responseCode: "4042412", responseMessage: "Invalid Bill/Virtual Account [Not Found]" }];
  }
  const virtualAccountData = {
    ...echoed,
    virtualAccountName: name,
    totalAmount: { value: "150000.00", currency: "IDR" },
    virtualAccountTrxType: "C",
    additionalInfo: { channel, trxId: `INV-${asked.customerNo}` },
    inquiryStatus: "00",
    inquiryReason: { english: "Success", indonesia: "Sukses" },
  };
  return [200, { responseCode: "2002400", responseMessage: "Successful", virtualAccountData }];
}

// A real app marks the invoice as paid here, once for each paymentRequestId, before it says yes.
function payment(asked) {
  const virtualAccountData = pick(
    asked,
    ...["partnerServiceId", "customerNo", "virtualAccountNo", "virtualAccountName", "trxId", "paymentRequestId", "paidAmount"],
  );
  return [200, { responseCode: "2002500", responseMessage: "Successful", virtualAccountData }];
}

const services = { "/transfer-va/inquiry": ["24", inquiry], "/transfer-va/payment": ["25", payment] };

// For tests: the calls seen, and the status to answer with. A real app has neither.
const seen = [];
let status = 200;

// Returns the status and the body to answer with.
function answer({ method, url, headers }, body) {
  if (url === "/_calls") return [200, seen];
  if (url === "/_mode") return [200, { status: (status = JSON.parse(body).status) }];
  seen.push({ method, path: url, headers, body });
  const suffix = Object.keys(services).find((end) => method === "POST" && url.endsWith(end));
  if (!suffix) return [404, { error: "not found" }];
  const [service, handle] = services[suffix];
  if (status !== 200) return [status, { responseCode: `${status}${service}00`, responseMessage: "General Error" }];
  try {
    return handle(JSON.parse(body));
  } catch {
    return [400, { responseCode: `400${service}00`, responseMessage: "Bad Request" }];
  }
}

async function handle(request, response) {
  const chunks = [];
  let size = 0;
  for await (const chunk of request) {
    size += chunk.length;
    if (size > largestBody) return response.writeHead(413, { Connection: "close" }).end();
    chunks.push(chunk);
  }
  const [code, value] = answer(request, Buffer.concat(chunks).toString());
  response.writeHead(code, { "Content-Type": "application/json" }).end(JSON.stringify(value));
}

const [command, base, trxId, customerNo] = process.argv.slice(2);
if (command === "serve") {
  const server = http.createServer((request, response) => {
    handle(request, response).catch(() => response.destroy()); // the caller has gone, or sent nonsense to /_mode
  });
  server.listen(Number(process.env.PORT ?? 3000), "127.0.0.1", () => console.log(`listening 127.0.0.1:${server.address().port}`));
} else if (Object.hasOwn(calls, command) && base) {
  const ok = await call(
    command,
    base,
    trxId || process.env.TRX_ID || `INV-${Date.now()}`,
    customerNo || process.env.CUSTOMER_NO || "0",
  );
  process.exitCode = ok ? 0 : 1;
} else {
  console.error("expected: serve, or create|update|status|delete URL [trxId [customerNo]]");
  process.exitCode = 2;
}
