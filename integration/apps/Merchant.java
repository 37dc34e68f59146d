// A merchant's app in Java: one file, no packages, and nothing of SNAP in it.
//
// The sidecar beside it does the signing and the checking. JDK 17 or later.
//
//     java Merchant.java create http://127.0.0.1:9180 INV-1 1001   # make a VA
//     java Merchant.java update http://127.0.0.1:9180 INV-1 1001   # change its amount
//     java Merchant.java status http://127.0.0.1:9180 INV-1 1001   # is it paid?
//     java Merchant.java delete http://127.0.0.1:9180 INV-1 1001
//     PORT=3000 java Merchant.java serve                           # answer DOKU's calls
//
// The URL is where doku_sign listens. Without the last argument, DOKU makes the
// number. PARTNER_SERVICE_ID is your prefix, padded with spaces to 8 characters.
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.PrintStream;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.time.Duration;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Executors;
import java.util.regex.Pattern;
import java.util.stream.Collectors;

import static java.nio.charset.StandardCharsets.UTF_8;

public class Merchant {
    static final String CHANNEL = "VIRTUAL_ACCOUNT_BANK_PERMATA";
    static final String NAME = "Jos\u00e9 & Putri <VIP>"; // on purpose: what JSON encoders write in different ways
    static final int LARGEST_BODY = 1 << 20;

    // ---- The app calls DOKU ----------------------------------------------------

    static final Map<String, List<String>> CALLS = Map.of(
        "create", List.of("POST", "/virtual-accounts/bi-snap-va/v1.1/transfer-va/create-va"),
        "update", List.of("PUT", "/virtual-accounts/bi-snap-va/v1.1/transfer-va/update-va"),
        "delete", List.of("DELETE", "/virtual-accounts/bi-snap-va/v1.1/transfer-va/delete-va"),
        "status", List.of("POST", "/orders/v1.0/transfer-va/status"));

    static Map<String, Object> requestBody(String command, String trxId, String customerNo) {
        String prefix = System.getenv().getOrDefault("PARTNER_SERVICE_ID", "    8808");
        var body = object("partnerServiceId", prefix, "customerNo", customerNo, "virtualAccountNo", prefix + customerNo);
        switch (command) {
            case "status" -> body.put("additionalInfo", object());
            case "delete" -> body.putAll(object("trxId", trxId, "additionalInfo", object("channel", CHANNEL)));
            default -> {
                boolean update = command.equals("update");
                var config = update ? object("reusableStatus", false, "status", "ACTIVE") : object("reusableStatus", false);
                body.putAll(object("virtualAccountName", NAME, "trxId", trxId,
                    "totalAmount", object("value", update ? "175000.00" : "150000.00", "currency", "IDR"),
                    "additionalInfo", object("channel", CHANNEL,
                        "returnUrl", "https://toko.example/bayar?invoice=" + trxId + "&promo='hemat'",
                        "note", "Terima kasih \ud83d\ude4f", "virtualAccountConfig", config),
                    "virtualAccountTrxType", "C"));
            }
        }
        return body;
    }

    // Posts plain JSON, prints the answer as one line, and says if it was HTTP 200.
    static boolean call(String command, String base, String trxId, String customerNo) throws IOException, InterruptedException {
        List<String> methodAndPath = CALLS.get(command);
        var request = HttpRequest.newBuilder(URI.create(base + methodAndPath.get(1)))
            .method(methodAndPath.get(0), HttpRequest.BodyPublishers.ofString(Json.write(requestBody(command, trxId, customerNo))))
            .header("Content-Type", "application/json")
            .timeout(Duration.ofSeconds(30))
            .build();
        var response = HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString());
        Object body = response.body();
        try {
            body = Json.read(response.body());
        } catch (IllegalArgumentException e) {
            // not JSON: shown as text
        }
        var headers = new LinkedHashMap<String, Object>();
        response.headers().map().forEach((name, values) -> headers.put(name.toLowerCase(), String.join(", ", values)));
        new PrintStream(System.out, true, UTF_8).println(Json.write(object("status", response.statusCode(), "body", body, "headers", headers)));
        return response.statusCode() == 200;
    }

    // ---- DOKU calls the app, through the sidecar -------------------------------

    record Answer(int status, Object body) {}

    // What does this customer owe? The number's parts go back as they came, spaces too.
    static Answer inquiry(Map<?, ?> asked) {
        var data = pick(asked, "partnerServiceId", "customerNo", "virtualAccountNo", "inquiryRequestId");
        String customerNo = (String) asked.get("customerNo");
        if (customerNo.endsWith("404")) {
            return new Answer(404, object("responseCode", "4042412", "responseMessage", "Invalid Bill/Virtual Account [Not Found]"));
        }
        data.putAll(object("virtualAccountName", NAME,
            "totalAmount", object("value", "150000.00", "currency", "IDR"), "virtualAccountTrxType", "C",
            "additionalInfo", object("channel", CHANNEL, "trxId", "INV-" + customerNo),
            "inquiryStatus", "00", "inquiryReason", object("english", "Success", "indonesia", "Sukses")));
        return new Answer(200, object("responseCode", "2002400", "responseMessage", "Successful", "virtualAccountData", data));
    }

    // A real app marks the invoice as paid here, once for each paymentRequestId, before it says yes.
    static Answer payment(Map<?, ?> asked) {
        return new Answer(200, object("responseCode", "2002500", "responseMessage", "Successful", "virtualAccountData", pick(asked,
            "partnerServiceId", "customerNo", "virtualAccountNo", "virtualAccountName", "trxId", "paymentRequestId", "paidAmount")));
    }

    // For tests: the calls seen, and the status to answer with. A real app has neither.
    static final List<Object> seen = new ArrayList<>();
    static int status = 200;

    static synchronized Answer answer(String method, String target, Map<String, Object> headers, String body) {
        if (target.equals("/_calls")) {
            return new Answer(200, List.copyOf(seen));
        }
        if (target.equals("/_mode")) {
            status = Integer.parseInt(((Map<?, ?>) Json.read(body)).get("status").toString());
            return new Answer(200, object("status", status));
        }
        seen.add(object("method", method, "path", target, "headers", headers, "body", body));
        boolean inquiry = target.endsWith("/transfer-va/inquiry");
        if (!method.equals("POST") || !inquiry && !target.endsWith("/transfer-va/payment")) {
            return new Answer(404, object("error", "not found"));
        }
        String service = inquiry ? "24" : "25";
        if (status != 200) {
            return new Answer(status, object("responseCode", status + service + "00", "responseMessage", "General Error"));
        }
        try {
            if (Json.read(body) instanceof Map<?, ?> asked) {
                return inquiry ? inquiry(asked) : payment(asked);
            }
        } catch (IllegalArgumentException | ClassCastException e) {
            // not JSON, or a field is not what it should be: answered below
        }
        return new Answer(400, object("responseCode", "400" + service + "00", "responseMessage", "Bad Request"));
    }

    static void handle(HttpExchange exchange) throws IOException {
        try (exchange) {
            byte[] body = exchange.getRequestBody().readNBytes(LARGEST_BODY + 1);
            if (body.length > LARGEST_BODY) {
                exchange.sendResponseHeaders(413, -1);
                return;
            }
            var headers = new LinkedHashMap<String, Object>();
            exchange.getRequestHeaders().forEach((name, values) -> headers.put(name.toLowerCase(), String.join(", ", values)));
            var answer = answer(exchange.getRequestMethod(), exchange.getRequestURI().toString(), headers, new String(body, UTF_8));
            byte[] text = Json.write(answer.body()).getBytes(UTF_8);
            exchange.getResponseHeaders().set("Content-Type", "application/json");
            exchange.sendResponseHeaders(answer.status(), text.length);
            exchange.getResponseBody().write(text);
        }
    }

    public static void main(String[] args) throws IOException, InterruptedException {
        var env = System.getenv();
        if (args.length == 1 && args[0].equals("serve")) {
            var server = HttpServer.create(new InetSocketAddress("127.0.0.1", Integer.parseInt(env.getOrDefault("PORT", "3000"))), 0);
            server.createContext("/", Merchant::handle);
            server.setExecutor(Executors.newCachedThreadPool());
            server.start();
            System.out.println("listening 127.0.0.1:" + server.getAddress().getPort());
        } else if (args.length >= 2 && CALLS.containsKey(args[0])) {
            String trxId = args.length > 2 ? args[2] : env.getOrDefault("TRX_ID", "INV-" + System.currentTimeMillis());
            String customerNo = args.length > 3 ? args[3] : env.getOrDefault("CUSTOMER_NO", "0");
            System.exit(call(args[0], args[1], trxId, customerNo) ? 0 : 1);
        } else {
            System.err.println("expected: serve, or create|update|status|delete URL [trxId [customerNo]]");
            System.exit(2);
        }
    }

    static Map<String, Object> object(Object... namesAndValues) {
        var object = new LinkedHashMap<String, Object>();
        for (int i = 0; i < namesAndValues.length; i += 2) {
            object.put((String) namesAndValues[i], namesAndValues[i + 1]);
        }
        return object;
    }

    static Map<String, Object> pick(Map<?, ?> from, String... names) {
        var picked = new LinkedHashMap<String, Object>();
        for (String name : names) {
            if (from.get(name) == null) {
                throw new IllegalArgumentException("expected " + name);
            }
            picked.put(name, from.get(name));
        }
        return picked;
    }

    /** The JDK has no JSON: use Gson or Jackson instead of this. It writes as Gson does by default. */
    static final class Json {
        private final String text;
        private int at;

        private Json(String text) {
            this.text = text;
        }

        static String write(Object value) {
            if (value instanceof Map<?, ?> map) {
                return map.entrySet().stream().map(e -> write(e.getKey()) + ":" + write(e.getValue())).collect(Collectors.joining(",", "{", "}"));
            }
            if (value instanceof List<?> list) {
                return list.stream().map(Json::write).collect(Collectors.joining(",", "[", "]"));
            }
            if (!(value instanceof String string)) {
                return String.valueOf(value);
            }
            return string.chars().mapToObj(c -> switch (c) {
                case '"', '\\' -> "\\" + (char) c;
                case '\n' -> "\\n";
                case '\r' -> "\\r";
                case '\t' -> "\\t";
                case '\b' -> "\\b";
                case '\f' -> "\\f";
                case '<', '>', '&', '=', '\'', '\u2028', '\u2029' -> "\\u%04x".formatted(c);
                default -> c < ' ' ? "\\u%04x".formatted(c) : String.valueOf((char) c);
            }).collect(Collectors.joining("", "\"", "\""));
        }

        /** A number, as it was written. */
        record Literal(String text) {
            @Override
            public String toString() {
                return text;
            }
        }

        /** Returns a Map, List, String, Literal, Boolean or null. */
        static Object read(String text) {
            var json = new Json(text);
            Object value = json.value();
            json.space();
            if (json.at != text.length()) {
                throw json.unexpected();
            }
            return value;
        }

        private static final Pattern LITERAL = Pattern.compile("true|false|null|-?(0|[1-9][0-9]*)(\\.[0-9]+)?([eE][+-]?[0-9]+)?");
        private static final String ESCAPES = "\"\\/bfnrt", ESCAPED = "\"\\/\b\f\n\r\t";

        private Object value() {
            space();
            if (skip('{')) {
                var map = new LinkedHashMap<String, Object>();
                for (boolean more = !closes('}'); more; more = !closes('}') && expect(',')) {
                    space();
                    String name = string();
                    space();
                    expect(':');
                    map.put(name, value());
                }
                return map;
            }
            if (skip('[')) {
                var list = new ArrayList<Object>();
                for (boolean more = !closes(']'); more; more = !closes(']') && expect(',')) {
                    list.add(value());
                }
                return list;
            }
            if (at < text.length() && text.charAt(at) == '"') {
                return string();
            }
            var literal = LITERAL.matcher(text).region(at, text.length());
            if (!literal.lookingAt()) {
                throw unexpected();
            }
            at = literal.end();
            return switch (literal.group()) {
                case "true" -> true;
                case "false" -> false;
                case "null" -> null;
                default -> new Literal(literal.group());
            };
        }

        private String string() {
            expect('"');
            var string = new StringBuilder();
            while (!skip('"')) {
                char c = next();
                if (c != '\\') {
                    string.append(c);
                } else if (skip('u')) {
                    int end = Math.min(at + 4, text.length());
                    string.append((char) Integer.parseInt(text.substring(at, end), 16));
                    at = end;
                } else {
                    int escape = ESCAPES.indexOf(next());
                    if (escape < 0) {
                        throw unexpected();
                    }
                    string.append(ESCAPED.charAt(escape));
                }
            }
            return string.toString();
        }

        private boolean closes(char end) {
            space();
            return skip(end);
        }

        private void space() {
            while (at < text.length() && " \t\r\n".indexOf(text.charAt(at)) >= 0) {
                at++;
            }
        }

        private boolean skip(char c) {
            boolean there = at < text.length() && text.charAt(at) == c;
            at += there ? 1 : 0;
            return there;
        }

        private boolean expect(char c) {
            if (!skip(c)) {
                throw unexpected();
            }
            return true;
        }

        private char next() {
            if (at == text.length()) {
                throw unexpected();
            }
            return text.charAt(at++);
        }

        private IllegalArgumentException unexpected() {
            return new IllegalArgumentException("not JSON at character " + at);
        }
    }
}
