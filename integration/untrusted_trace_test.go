package integration

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-doku/caddy-doku/simulator"
)

func TestStrangersDecideNothingAboutTraces(t *testing.T) {
	t.Parallel()
	const (
		strangers = "0af7651916cd43dd8448eb211c80319c"
		dokus     = "1bf7651916cd43dd8448eb211c80319d"
		asked     = "2cf7651916cd43dd8448eb211c80319e"
		b3        = "3df7651916cd43dd8448eb211c80319f"
	)
	for _, test := range []struct {
		name    string
		sampler string
		sampled bool
		app     bool // doku_app writes the site
	}{
		{"doku_app, not sampled", "parentbased_always_off", false, true},
		{"doku_app, sampled", "parentbased_always_on", true, true},
		{"by hand, not sampled", "parentbased_always_off", false, false},
		{"by hand, sampled", "parentbased_always_on", true, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			env, app, sampled := newEnv(t), newWitness(t), test.sampled
			env.variables = []string{"OTEL_TRACES_SAMPLER=" + test.sampler, "OTEL_PROPAGATORS=tracecontext,baggage,b3"}
			config := env.nameless(env.caddyfile(options{app: app.address, inbox: "{\n policy after_app\n}"}))
			config = strings.Replace(config, "\tdoku_token ", "\tdoku_untrusted_trace\n\tdoku_token ", 1)
			if test.app {
				config = env.nameless(env.withSite("doku_app " + app.address))
			}
			env.run(t, config)
			traced := func(id, flags string) func(r *http.Request) {
				return func(r *http.Request) {
					r.Header.Set("Traceparent", "00-"+id+"-b7ad6b7169203331-"+flags)
					r.Header.Set("Tracestate", "stranger=1")
					r.Header.Set("Baggage", "stranger=1")
				}
			}
			env.notify(t, simulator.Outgoing{Mutate: func(r *http.Request) {
				traced(strangers, "01")(r)
				r.Header.Set("X-SIGNATURE", base64.StdEncoding.EncodeToString(make([]byte, 64)))
			}}).expect(t, http.StatusUnauthorized, "4012500")
			env.notify(t, simulator.Outgoing{Mutate: func(r *http.Request) {
				r.Header.Set("B3", b3+"-b7ad6b7169203331-1")
				r.Header.Set("X-SIGNATURE", base64.StdEncoding.EncodeToString(make([]byte, 64)))
			}}).expect(t, http.StatusUnauthorized, "4012500")
			env.notify(t, simulator.Outgoing{Mutate: traced(dokus, "00")}).expect(t, http.StatusOK, "2002500")
			if a, err := env.doku.RequestToken(t.Context(), traced(asked, "01")); err != nil || a.Status != http.StatusOK {
				t.Fatal(a.Status, err)
			}
			h := app.of("P-1")[0].header
			if strings.Contains(h.Get("Traceparent"), dokus) || h.Get("Tracestate")+h.Get("Baggage") != "" || h.Get("Traceparent") == "" {
				t.Errorf("the app saw %v", h)
			}
			if flag := h.Get("Traceparent"); strings.HasSuffix(flag, "-01") != sampled {
				t.Errorf("the app saw the trace %s", flag)
			}
			env.sidecar.Stop()
			log := env.log.String()
			for _, id := range []string{strangers, b3, "stranger=1"} {
				if strings.Contains(log, id) {
					t.Errorf("a stranger has written %s to log or traces", id)
				}
			}
			for _, id := range []string{dokus, asked} {
				if strings.Contains(log, id) != sampled {
					t.Errorf("DOKU's trace %s is linked: %v, expected %v", id, !sampled, sampled)
				}
				if strings.Contains(log, `"Parent":{"TraceID":"`+id) {
					t.Errorf("DOKU's trace %s goes on", id)
				}
			}
			if exported := strings.Contains(log, `"Name":"doku.verify"`); exported != sampled {
				t.Errorf("spans are exported: %v", exported)
			}
		})
	}
}

func TestATraceGoesOnInAHandWrittenSite(t *testing.T) {
	t.Parallel()
	const id = "0af7651916cd43dd8448eb211c80319c"
	env, app := newEnv(t), newWitness(t)
	env.run(t, env.nameless(env.caddyfile(options{app: app.address})))
	env.notify(t, simulator.Outgoing{Timestamp: time.Now().Format(time.RFC3339), Mutate: func(r *http.Request) {
		r.Header.Set("Traceparent", "00-"+id+"-b7ad6b7169203331-01")
		r.Header.Set("Baggage", "stranger=1")
	}}).expect(t, http.StatusOK, "2002500")
	if h := app.of("P-1")[0].header; !strings.Contains(h.Get("Traceparent"), id) || h.Get("Baggage") != "" {
		t.Errorf("the app saw %v", h)
	}
}
