package outbound

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/httpio"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/moduletest"
)

func TestHostNames(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]string{
		"localhost": "localhost", "LocalHost.:80": "localhost", "127.0.0.1:9180": "127.0.0.1", "[::1]": "[::1]", "[::1]:80": "[::1]",
		"a.b-c_d": "a.b-c_d", "localhost:": "localhost",
		"": "", ":80": "", ".": "", "a..b": "", ".localhost": "", "localhost:80x": "", "[::1": "", "[::1]80": "", "[x]": "", "::1": "", "a b": "",
		"a/b": "", "a@localhost": "",
	} {
		name, ok := hostName(host)
		if ok != (want != "") || ok && name != want {
			t.Errorf("%q: found %q, %v, expected %q", host, name, ok, want)
		}
	}
}

func TestNamesThatAlwaysMeanThisMachine(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"localhost": true, "a.b.localhost": true, "127.0.0.1": true, "127.255.0.9": true, "[::1]": true, "[::ffff:127.0.0.1]": true,
		"localhost.evil.example": false, "xlocalhost": false, "128.0.0.1": false, "0.0.0.0": false, "[::]": false, "10.0.0.1": false,
		"127.evil.example": false,
	} {
		if isLocalName(name) != want {
			t.Errorf("%s: expected %v", name, want)
		}
	}
}

func TestTheHostIsCheckedOnLoopbackOnly(t *testing.T) {
	t.Parallel()
	s := new(Sign)
	for _, test := range []struct {
		local net.Addr
		want  bool
	}{
		{&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}, false},
		{&net.TCPAddr{IP: net.IPv6loopback}, false},
		{&net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}, false},
		{&net.TCPAddr{IP: net.IPv4(10, 0, 0, 1)}, true},
		{&net.UnixAddr{Name: "/run/sidecar.sock"}, true},
		{nil, true},
	} {
		r := httptest.NewRequestWithContext(
			context.WithValue(t.Context(), http.LocalAddrContextKey, test.local),
			http.MethodPost,
			"/",
			http.NoBody,
		)
		r.Host = "sidecar:9180"
		if err := s.checkHost(r); (err == nil) != test.want {
			t.Errorf("%v: found %v", test.local, err)
		}
	}
}

func TestOptionsOfTheGateThatCannotBeRight(t *testing.T) {
	t.Parallel()
	env := moduletest.New(t, moduletest.Options{})
	for _, s := range []*Sign{
		{AllowHosts: []string{"http://sidecar"}},
		{AllowHosts: []string{"sidecar:9180"}},
		{AllowHosts: []string{"sidecar/x"}},
		{AllowHosts: []string{"*"}},
		{AllowHosts: []string{"*.example"}},
		{AllowHosts: []string{""}},
		{NotSNAP: []string{"kyc"}},
		{NotSNAP: []string{"/*"}},
		{NotSNAP: []string{"/"}},
		{NotSNAP: []string{"/KYC"}},
		{NotSNAP: []string{"/a/*/b"}},
		{NotSNAP: []string{"//a"}},
	} {
		_, err := readHosts(s.AllowHosts)
		if err == nil {
			err = checkPatterns(s.NotSNAP)
		}
		if err == nil {
			t.Errorf("%q %q: expected an error", s.AllowHosts, s.NotSNAP)
		}
	}
	for _, s := range []*Sign{
		{AllowHosts: []string{"Host.Docker.Internal", "10.0.0.1", "[fd00::1]", "a."}},
		{NotSNAP: []string{"/kyc/*", "/loans/v1"}},
	} {
		env.Provision(t, s) // and validates
	}
}

func TestMostPathsAreLookedAtWithoutACopy(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() { _ = kindOf(httpio.CleanPath(moduletest.CreatePath)) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestDisguisesOfTheTokenPathAreKnown(t *testing.T) {
	t.Parallel()
	const token = "/authorization/v1/access-token/b2b"
	for path, want := range map[string]pathKind{
		token + "\x00": b2bTokenPath, token + "\u200b": b2bTokenPath, token + "?x": b2bTokenPath, token + "%3Fx": b2bTokenPath,
		token + ".":     b2bTokenPath,
		token + ".json": b2bTokenPath, token + "#x": b2bTokenPath, token + "\x00.php": b2bTokenPath, token + "..": b2bTokenPath,
		"/%zz/../authorization/v1/access-token/%62%32b": b2bTokenPath, "/authorization/v1/access-token/b\u200b2b": b2bTokenPath,
		"/authorization/v1/access\u00ad-token/b2b": b2bTokenPath, token + "%": b2bTokenPath, token + ",x": b2bTokenPath,
		token + "2c": b2b2cTokenPath, token + "x": snapPath, "/authorization/v1/access-token/xb2b": snapPath,
	} {
		if got := kindOf(httpio.CleanPath(path)); got != want {
			t.Errorf("%q: found %d, expected %d", path, got, want)
		}
	}
}

func TestAnotherSignatureIsKnownInEachSpelling(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"HMACSHA256=x": true, "hmacsha256=x": true, "HmacSha256 = x": true, " HMACSHA256=x": true, "\"HMACSHA256=x\"": true, "": false, "x": false, "HMACSHA512=x": false,
	} {
		if hasOtherSignature(http.Header{"Signature": {text}}) != want {
			t.Errorf("%q: expected %v", text, want)
		}
	}
	if !hasOtherSignature(http.Header{"Signature": {"x", "hmacsha256=y"}}) {
		t.Error("the second header is not looked at")
	}
}
