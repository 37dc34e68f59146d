// A merchant's app in Java, one file, without packages. It knows nothing of SNAP.
//
//     java App.java create http://127.0.0.1:9180 INV-1 1001   # create a VA
//     java App.java serve 3000                                # answer DOKU's calls
import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.util.regex.Pattern;

public class App {
    static final String PREFIX = "    8808";

    // Escapes as Gson does by default.
    static String escape(String s) {
        return s.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e").replace("=", "\\u003d").replace("'", "\\u0027");
    }

    static void create(String base, String trxId, String customerNo) throws Exception {
        String bill = ("{\"partnerServiceId\":\"%s\",\"customerNo\":\"%s\",\"virtualAccountNo\":\"%s\",\"virtualAccountName\":\"%s\","
            + "\"trxId\":\"%s\",\"totalAmount\":{\"value\":\"10000.00\",\"currency\":\"IDR\"},\"virtualAccountTrxType\":\"C\","
            + "\"additionalInfo\":{\"channel\":\"VIRTUAL_ACCOUNT_BANK_PERMATA\",\"url\":\"%s\"}}").formatted(
            PREFIX, customerNo, PREFIX + customerNo, escape("Jos\u00e9 & Putri <VIP>"), trxId, escape("https://toko.example/bayar?x=1&y='2'"));
        HttpRequest request = HttpRequest.newBuilder(URI.create(base + "/virtual-accounts/bi-snap-va/v1.1/transfer-va/create-va"))
            .header("Content-Type", "application/json")
            .POST(HttpRequest.BodyPublishers.ofString(bill))
            .build();
        HttpResponse<String> response = HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString());
        if (response.statusCode() != 200) {
            System.err.println("HTTP " + response.statusCode() + ": " + response.body());
            System.exit(1);
        }
        System.out.println(response.body());
    }

    static String field(String json, String name) {
        var found = Pattern.compile("\"" + name + "\":(\"[^\"]*\")").matcher(json);
        return found.find() ? "\"" + name + "\":" + found.group(1) + "," : "";
    }

    static void serve(int port) throws Exception {
        HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", port), 0);
        server.createContext("/", exchange -> {
            String asked = new String(exchange.getRequestBody().readAllBytes(), StandardCharsets.UTF_8);
            String answer = "{\"responseCode\":\"2002500\",\"responseMessage\":\"Successful\"}";
            if (exchange.getRequestURI().getPath().endsWith("/inquiry")) {
                answer = "{\"responseCode\":\"2002400\",\"responseMessage\":\"Successful\",\"virtualAccountData\":{"
                    + field(asked, "partnerServiceId") + field(asked, "customerNo") + field(asked, "virtualAccountNo") + field(asked, "inquiryRequestId")
                    + "\"virtualAccountName\":\"" + escape("Jos\u00e9 & Putri <VIP>") + "\",\"totalAmount\":{\"value\":\"11500.00\",\"currency\":\"IDR\"},"
                    + "\"virtualAccountTrxType\":\"C\",\"additionalInfo\":{\"channel\":\"VIRTUAL_ACCOUNT_BANK_PERMATA\",\"trxId\":\"INV-DIPC\"}}}";
            }
            byte[] body = answer.getBytes(StandardCharsets.UTF_8);
            exchange.getResponseHeaders().set("Content-Type", "application/json");
            exchange.sendResponseHeaders(200, body.length);
            exchange.getResponseBody().write(body);
            exchange.close();
        });
        server.start();
    }

    public static void main(String[] args) throws Exception {
        if (args[0].equals("create")) {
            create(args[1], args[2], args[3]);
        } else {
            serve(Integer.parseInt(args[1]));
        }
    }
}
