// A merchant's app in Node, without packages. It knows nothing of SNAP.
//
//     node app.mjs create http://127.0.0.1:9180 INV-1 1001   # create a VA
//     node app.mjs serve 3000                                # answer DOKU's calls
import http from "node:http";

const prefix = "    8808";

async function create(base, trxId, customerNo) {
  const bill = {
    partnerServiceId: prefix,
    customerNo,
    virtualAccountNo: prefix + customerNo,
    virtualAccountName: "José & Putri <VIP>",
    trxId,
    totalAmount: { value: "10000.00", currency: "IDR" },
    virtualAccountTrxType: "C",
    additionalInfo: {
      channel: "VIRTUAL_ACCOUNT_BANK_PERMATA",
      url: "https://toko.example/bayar?x=1&y='2'",
    },
  };
  const response = await fetch(base + "/virtual-accounts/bi-snap-va/v1.1/transfer-va/create-va", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(bill, null, 2),
  });
  const text = await response.text();
  if (!response.ok) throw new Error(`HTTP ${response.status}: ${text}`);
  console.log(text);
}

async function answer(request, response) {
  let body = "";
  for await (const chunk of request) body += chunk;
  const asked = JSON.parse(body);
  const { partnerServiceId, customerNo, virtualAccountNo, inquiryRequestId } = asked;
  const told = request.url.endsWith("/inquiry")
    ? {
        responseCode: "2002400",
        responseMessage: "Successful",
        virtualAccountData: {
          partnerServiceId,
          customerNo,
          virtualAccountNo,
          inquiryRequestId,
          virtualAccountName: "José & Putri <VIP>",
          totalAmount: { value: "11500.00", currency: "IDR" },
          virtualAccountTrxType: "C",
          additionalInfo: { channel: "VIRTUAL_ACCOUNT_BANK_PERMATA", trxId: "INV-DIPC" },
        },
      }
    : { responseCode: "2002500", responseMessage: "Successful" };
  response.setHeader("Content-Type", "application/json");
  response.end(JSON.stringify(told));
}

const [command, ...args] = process.argv.slice(2);
if (command === "create") await create(...args);
else http.createServer(answer).listen(Number(args[0]), "127.0.0.1");
