package integration

import (
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
)

// language is one of the apps in apps/ and how it is run.
type language struct {
	name  string
	needs string   // the program without which its test is skipped
	app   []string // the command, to which "create" and its arguments are added
	serve func(address, port string) []string
}

func served(command ...string) func(address, port string) []string {
	return func(_, port string) []string { return append(command, "serve", port) }
}

var languages = []language{
	{"Python", "python3", []string{"python3", "app.py"}, served("python3", "app.py")},
	{"Node", "node", []string{"node", "app.mjs"}, served("node", "app.mjs")},
	{"PHP", "php", []string{"php", "app.php"}, func(address, _ string) []string { return []string{"php", "-S", address, "app.php"} }},
	{"Java", "javac", []string{"java", "App.java"}, served("java", "App.java")}, // running a source file takes a compiler
}

func TestAppsInAnyLanguage(t *testing.T) {
	t.Parallel()
	for _, l := range languages {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			doktest.Need(t, l.needs)
			l.test(t)
		})
	}
	t.Run("Go", func(t *testing.T) {
		t.Parallel()
		program := filepath.Join(t.TempDir(), "app")
		build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "app.go")
		build.Dir = "apps"
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("building the app: %v: %s", err, out)
		}
		language{app: []string{program}, serve: served(program)}.test(t)
	})
}

// test runs the app, which answers DOKU's calls, and another of its processes, which
// creates a VA.
func (l language) test(t *testing.T) {
	t.Helper()
	address := doktest.FreeAddress(t)
	_, port, _ := strings.Cut(address, ":")
	command := l.serve(address, port)
	server := exec.Command(command[0], command[1:]...)
	server.Dir = "apps"
	doktest.Start(t, new(doktest.Log), server, address)
	env := start(t, options{app: address})

	create := exec.CommandContext(t.Context(), l.app[0], append(slices.Clone(l.app[1:]), "create", env.outward, "INV-1", "1001")...)
	create.Dir = "apps"
	if out, err := create.CombinedOutput(); err != nil {
		t.Fatalf("creating a VA: %v: %s", err, out)
	}
	want := fmt.Sprintf(
		`{"partnerServiceId":%q,"customerNo":"1001","virtualAccountNo":%q,"virtualAccountName":"José & Putri <VIP>","trxId":"INV-1",`+
			`"totalAmount":{"value":"10000.00","currency":"IDR"},"virtualAccountTrxType":"C",`+
			`"additionalInfo":{"channel":"VIRTUAL_ACCOUNT_BANK_PERMATA","url":"https://toko.example/bayar?x=1&y='2'"}}`,
		partnerServiceID,
		partnerServiceID+"1001",
	)
	received := env.received(t)
	if received.Status != http.StatusOK || string(received.Body) != want {
		t.Errorf("DOKU received\n%s\nexpected\n%s", received.Body, want)
	}
	if len(received.Fragile) > 0 {
		t.Errorf("a DOKU that encodes the body again before hashing it would come to another hash in %v", received.Fragile)
	}
	if receipt, err := env.doku.Pay(t.Context(), partnerServiceID+"1001", "10000.00"); err != nil || !receipt.Notification.OK() {
		t.Errorf("notification: %+v, %v", receipt, err)
	}
	if receipt, err := env.doku.Pay(t.Context(), partnerServiceID+"4711", "11500.00"); err != nil || !receipt.Inquired ||
		!receipt.Notification.OK() {
		t.Errorf("direct inquiry: %+v, %v", receipt, err)
	}
}
