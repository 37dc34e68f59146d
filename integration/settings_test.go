package integration

import (
	"strings"
	"testing"
)

// usualVariables are the variables of [usualAccount], with right values.
func usualVariables(t *testing.T) (variables []string) {
	t.Helper()
	for name, right := range settings(t) {
		variables = append(variables, variableOf[name]+"="+right)
	}
	return variables
}

func TestAServiceThatDOKUDoesNotCallIsRefused(t *testing.T) {
	t.Parallel()
	const says = "expected 24 (inquiries about a virtual account), 25 (notifications of a virtual account's payment), " +
		"56 (notifications of direct debit and e-wallets), found "
	for service, valid := range map[string]bool{"24": true, "25": true, "56": true, "27": false, "52": false, "99": false, "73": false, "00": false} {
		for _, site := range []string{
			"doku_app 127.0.0.1:3000 {\npath /pay service " + service + "\n}",
			"doku_app 127.0.0.1:3000 {\npath /pay\nservice " + service + "\n}",
			"route /pay {\ndoku_verify {\nservice " + service + "\ntoken any\n}\ndoku_inbox 127.0.0.1:3000\n}\ndoku_unhandled",
		} {
			out, err := checked(t, usualAccount, "", "http://127.0.0.1:9443 {\n"+site+"\n}\n", usualVariables(t)...)
			if (err == nil) != valid || !valid && !strings.Contains(out, says+`\"`+service+`\"`) {
				t.Errorf("%s in %s: %v: it says %s", service, site, err, out)
			}
		}
	}
}
