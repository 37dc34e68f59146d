<?php
// A merchant's app in PHP: no packages, and nothing of SNAP in it.
//
// The sidecar beside it does the signing and the checking. PHP 8 or later.
//
//     php merchant.php create http://127.0.0.1:9180 INV-1 1001   # make a VA
//     php merchant.php update http://127.0.0.1:9180 INV-1 1001   # change its amount
//     php merchant.php status http://127.0.0.1:9180 INV-1 1001   # is it paid?
//     php merchant.php delete http://127.0.0.1:9180 INV-1 1001
//     php -S 127.0.0.1:3000 merchant.php                         # answer DOKU's calls
//
// The URL is where doku_sign listens. Without the last argument, DOKU makes the
// number. PARTNER_SERVICE_ID is your prefix, padded with spaces to 8 characters.
//
// For tests: APP_STATE names a folder for what must outlive a request, the calls
// seen (GET /_calls) and the status to answer with (POST /_mode). A real app has neither.
declare(strict_types=1);

const CHANNEL = 'VIRTUAL_ACCOUNT_BANK_PERMATA';
const NAME = 'José & Putri <VIP>'; // on purpose: what JSON encoders write in different ways
const LARGEST_BODY = 1 << 20;

// ---- The app calls DOKU ----------------------------------------------------

const CALLS = [
    'create' => ['POST', '/virtual-accounts/bi-snap-va/v1.1/transfer-va/create-va'],
    'update' => ['PUT', '/virtual-accounts/bi-snap-va/v1.1/transfer-va/update-va'],
    'delete' => ['DELETE', '/virtual-accounts/bi-snap-va/v1.1/transfer-va/delete-va'],
    'status' => ['POST', '/orders/v1.0/transfer-va/status'],
];

function requestBody(string $command, string $trxId, string $customerNo): array
{
    $prefix = getenv('PARTNER_SERVICE_ID') ?: '    8808';
    $number = ['partnerServiceId' => $prefix, 'customerNo' => $customerNo, 'virtualAccountNo' => $prefix . $customerNo];
    if ($command === 'status') {
        return $number + ['additionalInfo' => new stdClass()]; // an empty array would become [] instead of {}
    }
    if ($command === 'delete') {
        return $number + ['trxId' => $trxId, 'additionalInfo' => ['channel' => CHANNEL]];
    }
    $update = $command === 'update';
    return $number + [
        'virtualAccountName' => NAME,
        'trxId' => $trxId,
        'totalAmount' => ['value' => $update ? '175000.00' : '150000.00', 'currency' => 'IDR'],
        'additionalInfo' => [
            'channel' => CHANNEL,
            'returnUrl' => "https://toko.example/bayar?invoice=$trxId&promo='hemat'",
            'note' => 'Terima kasih 🙏',
            'virtualAccountConfig' => ['reusableStatus' => false] + ($update ? ['status' => 'ACTIVE'] : []),
        ],
        'virtualAccountTrxType' => 'C',
    ];
}

// Posts plain JSON, prints the answer as one line, and says if it was HTTP 200.
function call(string $command, string $base, string $trxId, string $customerNo): bool
{
    [$method, $path] = CALLS[$command];
    $stream = fopen($base . $path, 'r', false, stream_context_create(['http' => [
        'method' => $method,
        'header' => 'Content-Type: application/json',
        'content' => json_encode(requestBody($command, $trxId, $customerNo)),
        'ignore_errors' => true, // any status but 2xx is an answer too
        'timeout' => 30,
    ]]));
    if ($stream === false) {
        return false; // PHP has said why
    }
    $lines = stream_get_meta_data($stream)['wrapper_data']; // the status line, then the headers
    $status = (int) explode(' ', array_shift($lines))[1];
    $headers = [];
    foreach ($lines as $line) {
        [$name, $value] = explode(':', $line, 2);
        $headers[strtolower($name)] = trim($value);
    }
    $text = stream_get_contents($stream, LARGEST_BODY);
    echo json_encode(['status' => $status, 'body' => json_decode($text) ?? $text, 'headers' => $headers]), "\n";
    return $status === 200;
}

// ---- DOKU calls the app, through the sidecar -------------------------------

function pick(stdClass $from, string ...$names): array
{
    $picked = [];
    foreach ($names as $name) {
        $picked[$name] = $from->$name ?? throw new UnexpectedValueException("expected $name");
    }
    return $picked;
}

// What does this customer owe? The number's parts go back as they came, spaces too.
function inquiry(stdClass $asked): array
{
    $echoed = pick($asked, 'partnerServiceId', 'customerNo', 'virtualAccountNo', 'inquiryRequestId');
    if (str_ends_with($asked->customerNo, '404')) {
        return [404, ['responseCode' => '4042412', 'responseMessage' => 'Invalid Bill/Virtual Account [Not Found]']];
    }
    return [200, ['responseCode' => '2002400', 'responseMessage' => 'Successful', 'virtualAccountData' => $echoed + [
        'virtualAccountName' => NAME,
        'totalAmount' => ['value' => '150000.00', 'currency' => 'IDR'],
        'virtualAccountTrxType' => 'C',
        'additionalInfo' => ['channel' => CHANNEL, 'trxId' => 'INV-' . $asked->customerNo],
        'inquiryStatus' => '00',
        'inquiryReason' => ['english' => 'Success', 'indonesia' => 'Sukses'],
    ]]];
}

// A real app marks the invoice as paid here, once for each paymentRequestId, before it says yes.
function payment(stdClass $asked): array
{
    return [200, ['responseCode' => '2002500', 'responseMessage' => 'Successful', 'virtualAccountData' => pick(
        $asked, 'partnerServiceId', 'customerNo', 'virtualAccountNo', 'virtualAccountName', 'trxId', 'paymentRequestId', 'paidAmount',
    )]];
}

// Returns the status and the value to answer with.
function answer(string $method, string $target, string $body): array
{
    $state = getenv('APP_STATE');
    $calls = "$state/calls";
    $mode = "$state/mode";
    if ($state && $target === '/_calls') {
        return [200, is_file($calls) ? array_map('json_decode', file($calls)) : []];
    }
    if ($state && $target === '/_mode') {
        $status = json_decode($body)->status;
        file_put_contents($mode, $status, LOCK_EX);
        return [200, ['status' => $status]];
    }
    if ($state) {
        $seen = ['method' => $method, 'path' => $target, 'headers' => array_change_key_case(getallheaders()), 'body' => $body];
        file_put_contents($calls, json_encode($seen, JSON_INVALID_UTF8_SUBSTITUTE) . "\n", FILE_APPEND | LOCK_EX);
    }
    [$service, $handle] = match (true) {
        $method === 'POST' && str_ends_with($target, '/transfer-va/inquiry') => ['24', 'inquiry'],
        $method === 'POST' && str_ends_with($target, '/transfer-va/payment') => ['25', 'payment'],
        default => ['', ''],
    };
    if ($handle === '') {
        return [404, ['error' => 'not found']];
    }
    $status = $state && is_file($mode) ? (int) file_get_contents($mode) : 200;
    if ($status !== 200) {
        return [$status, ['responseCode' => "{$status}{$service}00", 'responseMessage' => 'General Error']];
    }
    try {
        return $handle(json_decode($body));
    } catch (UnexpectedValueException | TypeError) {
        return [400, ['responseCode' => "400{$service}00", 'responseMessage' => 'Bad Request']];
    }
}

if (PHP_SAPI === 'cli-server') {
    [$status, $value] = answer($_SERVER['REQUEST_METHOD'], $_SERVER['REQUEST_URI'], file_get_contents('php://input', length: LARGEST_BODY));
    http_response_code($status);
    header('Content-Type: application/json');
    echo json_encode($value);
} elseif (isset(CALLS[$argv[1] ?? ''], $argv[2])) {
    $trxId = ($argv[3] ?? '') ?: getenv('TRX_ID') ?: 'INV-' . hrtime(true);
    $customerNo = ($argv[4] ?? '') ?: getenv('CUSTOMER_NO') ?: '0';
    exit(call($argv[1], $argv[2], $trxId, $customerNo) ? 0 : 1);
} else {
    fwrite(STDERR, "expected: create|update|status|delete URL [trxId [customerNo]], or php -S 127.0.0.1:3000 {$argv[0]}\n");
    exit(2);
}
