package sitecheck

import (
	"net/netip"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

func TestAddressesThatGetEachOthersConnectionsOverlap(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		caddy, kernel string
		want          bool
	}{
		{":8443", "0.0.0.0", true},
		{":8443", "::", true},
		{":8443", "10.0.0.1", true},
		{"0.0.0.0:8443", "127.0.0.1", true},
		{"0.0.0.0:8443", "::", true},
		{"0.0.0.0:8443", "::1", false},
		{"[::]:8443", "127.0.0.1", true},
		{"127.0.0.1:8443", "127.0.0.1", true},
		{"127.0.0.1:8443", "::ffff:127.0.0.1", true},
		{"127.0.0.1:8443", "0.0.0.0", true},
		{"127.0.0.1:8443", "::", true},
		{"127.0.0.1:8443", "127.0.0.2", false},
		{"127.0.0.1:8443", "::1", false},
		{"[::1]:8443", "0.0.0.0", false},
		{"[::1]:8443", "::", true},
		{"localhost:8443", "127.0.0.1", true},
		{"localhost:8443", "10.0.0.1", false},
	} {
		address, err := caddy.ParseNetworkAddress(test.caddy)
		if err != nil {
			t.Fatal(err)
		}
		if got := overlaps(address, netip.MustParseAddr(test.kernel)); got != test.want {
			t.Errorf("%s and %s: found %t", test.caddy, test.kernel, got)
		}
	}
}

func TestTheKernelsAddressesAreRead(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"0100007F:20FB":                         "127.0.0.1:8443",
		"00000000000000000000000001000000:20FB": "[::1]:8443",
		"00000000:0050":                         "0.0.0.0:80",
	} {
		if got, ok := kernelAddress(text); !ok || got.String() != want {
			t.Errorf("%s: found %s, %t", text, got, ok)
		}
	}
	for _, text := range []string{"", "0100007F", "0100007F:", "xx:20FB", "0100:20FB"} {
		if got, ok := kernelAddress(text); ok {
			t.Errorf("%q: found %s", text, got)
		}
	}
}
