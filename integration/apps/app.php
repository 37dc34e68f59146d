<?php
// A merchant's app in PHP, without packages. It knows nothing of SNAP.
//
//     php app.php create http://127.0.0.1:9180 INV-1 1001   # create a VA
//     php -S 127.0.0.1:3000 app.php                         # answer DOKU's calls

const PREFIX = '    8808';

function create(string $base, string $trxId, string $customerNo): void
{
    $bill = [
        'partnerServiceId' => PREFIX,
        'customerNo' => $customerNo,
        'virtualAccountNo' => PREFIX . $customerNo,
        'virtualAccountName' => 'José & Putri <VIP>',
        'trxId' => $trxId,
        'totalAmount' => ['value' => '10000.00', 'currency' => 'IDR'],
        'virtualAccountTrxType' => 'C',
        'additionalInfo' => [
            'channel' => 'VIRTUAL_ACCOUNT_BANK_PERMATA',
            'url' => "https://toko.example/bayar?x=1&y='2'",
        ],
    ];
    $context = stream_context_create(['http' => [
        'method' => 'POST',
        'header' => "Content-Type: application/json\r\n",
        'content' => json_encode($bill), // with \/ and \u escapes, as PHP does
        'ignore_errors' => true,
        'timeout' => 30,
    ]]);
    $body = file_get_contents($base . '/virtual-accounts/bi-snap-va/v1.1/transfer-va/create-va', false, $context);
    if (!str_contains($http_response_header[0], ' 200')) {
        fwrite(STDERR, $http_response_header[0] . ': ' . $body . "\n");
        exit(1);
    }
    echo $body, "\n";
}

if (PHP_SAPI === 'cli') {
    create(...array_slice($argv, 2));
    exit;
}

$asked = json_decode(file_get_contents('php://input'), true);
$answer = ['responseCode' => '2002500', 'responseMessage' => 'Successful'];
if (str_ends_with($_SERVER['REQUEST_URI'], '/inquiry')) {
    $answer = [
        'responseCode' => '2002400',
        'responseMessage' => 'Successful',
        'virtualAccountData' => [
            'partnerServiceId' => $asked['partnerServiceId'],
            'customerNo' => $asked['customerNo'],
            'virtualAccountNo' => $asked['virtualAccountNo'],
            'inquiryRequestId' => $asked['inquiryRequestId'],
            'virtualAccountName' => 'José & Putri <VIP>',
            'totalAmount' => ['value' => '11500.00', 'currency' => 'IDR'],
            'virtualAccountTrxType' => 'C',
            'additionalInfo' => ['channel' => 'VIRTUAL_ACCOUNT_BANK_PERMATA', 'trxId' => 'INV-DIPC'],
        ],
    ];
}
header('Content-Type: application/json');
echo json_encode($answer);
