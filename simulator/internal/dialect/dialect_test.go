package dialect

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestBodiesThatAnotherLanguageWouldWriteOtherwise(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, body, want string }{
		{"what the sidecar sends", `{"name":"José & Putri <VIP>","url":"https://t.id/x?a='1'","n":[1,-5,0,null,true],"e":{},"t":"a\n\"b\\"}`, ""},
		{"white space only", `{ "a" : "b" }`, ""},
		{"escaped slashes", `{"url":"https:\/\/t.id"}`, "JavaScript Java PHP"},
		{"escaped letters", `{"n":"Jos\u00e9 \u0026"}`, "JavaScript Java PHP"},
		{"an amount as a number with decimals", `{"a":10000.00}`, "JavaScript Java PHP"},
		{"a number that only Java writes with a point", `{"a":10000.0}`, "JavaScript PHP"},
		{"an integer too large for a double", `{"a":12345678901234567890}`, "JavaScript PHP"},
		{"duplicate keys", `{"a":"1","a":"2"}`, "JavaScript Java PHP"},
		{"keys that are indices", `{"b":"1","1":"2"}`, "JavaScript"},
		{"a line separator", "{\"a\":\"\u2028\"}", "PHP"},
		{"a control character", `{"a":"\u001f"}`, "Java"},
		{"not JSON", `{"a"`, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if got := strings.Join(Differing([]byte(test.body)), " "); got != test.want {
				t.Errorf("found %q, expected %q", got, test.want)
			}
		})
	}
}

// The expected texts are those of Node.js 20, PHP 8.2 and Java 21's Double.toString.
func TestNumbersAsOtherLanguagesWriteThem(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ number, script, java, php string }{
		{"-0", "0", "0", "0"},
		{"-0.0", "0", "-0.0", "-0.0"},
		{"1.0", "1", "1.0", "1"},
		{"10000.50", "10000.5", "10000.5", "10000.5"},
		{"9007199254740993", "9007199254740992", "9007199254740993", "9007199254740993"},
		{"123456789012345678901", "123456789012345680000", "123456789012345678901", "1.2345678901234568e+20"},
		{"1e7", "10000000", "1.0E7", "10000000"},
		{"12345678.9", "12345678.9", "1.23456789E7", "12345678.9"},
		{"1e17", "100000000000000000", "1.0E17", "1.0e+17"},
		{"1e21", "1e+21", "1.0E21", "1.0e+21"},
		{"9.99e-5", "0.0000999", "9.99E-5", "9.99e-5"},
		{"123e-9", "1.23e-7", "1.23E-7", "1.23e-7"},
		{"0.001", "0.001", "0.001", "0.001"},
	} {
		for i, want := range []string{test.script, test.java, test.php} {
			if got := dialects[i].number(json.Number(test.number)); got != want {
				t.Errorf("%s in %s: %s, expected %s", test.number, dialects[i].name, got, want)
			}
		}
	}
}
