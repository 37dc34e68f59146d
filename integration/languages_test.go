package integration

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// languages are the apps in apps/ and how they are run.
var languages = []struct {
	name, program string
	create        []string
	serve         func(address, port string) []string
}{
	{"Python", "python3", []string{"app.py", "create"}, func(_, port string) []string { return []string{"app.py", "serve", port} }},
	{"Node", "node", []string{"app.mjs", "create"}, func(_, port string) []string { return []string{"app.mjs", "serve", port} }},
	{"PHP", "php", []string{"app.php", "create"}, func(address, _ string) []string { return []string{"-S", address, "app.php"} }},
	{"Java", "java", []string{"App.java", "create"}, func(_, port string) []string { return []string{"App.java", "serve", port} }},
}

// need skips the test if a program is not installed, unless
// DOKU_REQUIRE_LANGUAGES (a list such as "python3,node") names it.
func need(t *testing.T, program string) {
	t.Helper()
	_, err := exec.LookPath(program)
	if err == nil {
		return
	}
	if slices.Contains(strings.Split(os.Getenv("DOKU_REQUIRE_LANGUAGES"), ","), program) {
		t.Fatalf("%s is required here, but not installed", program)
	}
	t.Skipf("skipped, because %s is not installed", program)
}

func TestAppsInAnyLanguage(t *testing.T) {
	t.Parallel()
	for _, language := range languages {
		t.Run(language.name, func(t *testing.T) {
			t.Parallel()
			need(t, language.program)
			address := freeAddress(t)
			_, port, _ := strings.Cut(address, ":")

			server := exec.Command(language.program, language.serve(address, port)...)
			server.Dir = "apps"
			server.WaitDelay = 10 * time.Second
			if err := server.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- server.Wait() }()
			t.Cleanup(func() {
				_ = server.Process.Kill()
				<-ended
			})
			await(t, address, ended)
			w := start(t, options{app: address})

			create := exec.CommandContext(t.Context(), language.program, append(slices.Clone(language.create), w.outward, "INV-1", "1001")...)
			create.Dir = "apps"
			if out, err := create.CombinedOutput(); err != nil {
				t.Fatalf("creating a VA: %v: %s", err, out)
			}
			want := fmt.Sprintf(`{"partnerServiceId":%q,"customerNo":"1001","virtualAccountNo":%q,"virtualAccountName":"José & Putri <VIP>","trxId":"INV-1",`+
				`"totalAmount":{"value":"10000.00","currency":"IDR"},"virtualAccountTrxType":"C",`+
				`"additionalInfo":{"channel":"VIRTUAL_ACCOUNT_BANK_PERMATA","url":"https://toko.example/bayar?x=1&y='2'"}}`, partnerServiceID, partnerServiceID+"1001")
			if received := w.received(t); received.Status != http.StatusOK || string(received.Body) != want {
				t.Errorf("DOKU received\n%s\nexpected\n%s", received.Body, want)
			}
			if receipt, err := w.doku.Pay(t.Context(), partnerServiceID+"1001", "10000.00"); err != nil || !receipt.Notification.OK() {
				t.Errorf("notification: %+v, %v", receipt, err)
			}
			if receipt, err := w.doku.Pay(t.Context(), partnerServiceID+"4711", "11500.00"); err != nil || !receipt.Inquired || !receipt.Notification.OK() {
				t.Errorf("direct inquiry: %+v, %v", receipt, err)
			}
		})
	}
}
