package snap

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

func FuzzParseTimestamp(f *testing.F) {
	for _, seed := range []string{
		"2024-03-26T16:01:41+07:00", "2024-03-26T09:01:41Z", "2020-12-21T07:56:11.000Z", "2024-03-26T16:01:41.123456789+07:00",
		"2024-03-26T16:01:41,5Z", "2024-03-26T16:01:41-00:00", "2024-03-26t16:01:41z", "2024-02-30T00:00:00Z", "2024-03-26T24:00:00Z",
		"2024-03-26T16:01:60Z", "2024-03-26T16:01:41+5.5:30", "2024-03-26T08:59:47-03:-30", "0000-01-01T00:00:00Z",
		"9999-12-31T23:59:59+23:59", "",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		at, err := ParseTimestamp(text)
		if err != nil {
			if !errors.Is(err, errTimestamp) {
				t.Fatalf("error %v", err)
			}
			return
		}
		// What a strict reader of RFC 3339 takes is the same instant.
		var strict time.Time
		if err := strict.UnmarshalText([]byte(text)); err == nil && !strict.Equal(at) {
			t.Fatalf("%q was read as %s, strictly it is %s", text, at, strict)
		}
		// The instant is the same in another zone, and in the basic format.
		east := at.Add(7 * time.Hour).UTC()
		for _, layout := range []string{
			"2006-01-02T15:04:05.999999999+07:00", "20060102T150405.999999999+07", "2006-01-02T15:04:05,999999999+0700",
		} {
			other := east.Format(layout)
			if again, err := ParseTimestamp(other); east.Year() >= 0 && east.Year() <= 9999 && (err != nil || !again.Equal(at)) {
				t.Fatalf("%q was read as %s, %q as %s, %v", text, at, other, again, err)
			}
		}
	})
}

func FuzzRequestTarget(f *testing.F) {
	for _, seed := range []string{
		"/v1.1/transfer-va/payment?a=%2F", "//double//slash", "http://host/path?query", "https://host", "http://host?query", "*", "", "host:443",
		"/a;b=1/../c", "://", "/%zz", "?only", "/http://in/path", "http://\xff/\xff/p://\xff",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, uri string) {
		target := RequestTarget(uri)
		if !strings.HasPrefix(target, "/") || RequestTarget(target) != target {
			t.Fatalf("%q gives %q", uri, target)
		}
		if strings.HasPrefix(uri, "/") && target != uri {
			t.Fatalf("%q was changed to %q", uri, target)
		}
		if u, err := url.Parse(uri); err == nil && u.Host != "" && u.Scheme != "" {
			if _, rest, _ := strings.Cut(uri, "://"); len(target) > len(rest)-len(u.Host)+1 {
				t.Fatalf("%q gives %q, which has the host in it", uri, target)
			}
		}
		if service, _ := ServiceOf(http.MethodPost, target); !service.Valid() {
			t.Fatalf("%q has service %q", target, service)
		}
	})
}

// FuzzStringField compares the search in the text with decoding it.
func FuzzStringField(f *testing.F) {
	for _, seed := range []string{
		`{"paymentRequestId":"1"}`, `{"a":{"paymentRequestId":"2"},"paymentRequestId":"1"}`,
		`["paymentRequestId","x"]`, `{"a":"paymentRequestId","b":"x"}`,
		`{"paymentRequestId":1}`, `{"paymentRequestId":"a\"b"}`, `{"paymentRequestId":["x"]}`,
		`{"paymentRequestId":"1","paymentRequestId":"2"}`,
		`{"x":"\\","paymentRequestId":"é"}`, `{"paymentRequestId":"1","paymentRequestId":2}`, `{}`,
		`"paymentRequestId"`, `{"\"paymentRequestId":"x"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		body, _, err := AppendCanonical(nil, text)
		if err != nil {
			return
		}
		got := StringField(body, "paymentRequestId")
		var fields map[string]json.RawMessage
		if json.Unmarshal(body, &fields) != nil {
			if got != "" {
				t.Fatalf("found %q in %s, which is no object", got, body)
			}
			return
		}
		want, raw := "", string(fields["paymentRequestId"])
		if len(raw) > 1 && raw[0] == '"' && !strings.Contains(raw, `\`) {
			want = raw[1 : len(raw)-1]
		}
		if got != want {
			t.Fatalf("found %q in %s, expected %q", got, body, want)
		}
	})
}
