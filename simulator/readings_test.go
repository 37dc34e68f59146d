package simulator

import (
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
		{"an integer too large for a double", `{"a":12345678901234567890}`, "JavaScript Java PHP"},
		{"duplicate keys", `{"a":"1","a":"2"}`, "JavaScript Java PHP"},
		{"keys that are indices", `{"b":"1","1":"2"}`, "JavaScript"},
		{"a line separator", "{\"a\":\"\u2028\"}", "PHP"},
		{"a control character", `{"a":"\u001f"}`, "Java"},
		{"not JSON", `{"a"`, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if got := strings.Join(fragile([]byte(test.body)), " "); got != test.want {
				t.Errorf("found %q, expected %q", got, test.want)
			}
		})
	}
}
