package inbound

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.opentelemetry.io/otel/trace"

	"github.com/caddy-doku/caddy-doku/caddymodule/doku"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/httpio"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/moduletest"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/reasons"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/telemetry"
	"github.com/caddy-doku/caddy-doku/internal/store"
	"github.com/caddy-doku/caddy-doku/snap"
)

func TestTheAppsTimeIsNotTheSidecars(t *testing.T) { //nolint:paralleltest // other tests may measure meanwhile
	h, clock := moduletest.New(t, moduletest.Options{}), moduletest.NewClock(time.Now())
	account := h.App().(*doku.App).Accounts[0]
	account.Name = t.Name()
	v := new(Verify)
	h.Provision(t, v)
	v.now = clock.Now
	answer := &store.Answer{Status: http.StatusOK, Body: []byte(`{}`)}
	for _, test := range []struct {
		name     string
		app      func(w http.ResponseWriter) error
		observed bool // as the app's time
		waited   time.Duration
	}{
		{"an answer", func(w http.ResponseWriter) error { return httpio.Replay(w, answer) }, true, time.Second},
		{"an app that takes too long", func(http.ResponseWriter) error {
			return caddyhttp.Error(http.StatusGatewayTimeout, context.DeadlineExceeded)
		}, true, time.Second},
		{"an app that breaks off", func(http.ResponseWriter) error { return io.ErrUnexpectedEOF }, false, time.Second},
		{"an inbox that has called the app measures by itself", func(w http.ResponseWriter) error {
			return httpio.ReplayFrom(w, SourceInbox, answer)
		}, false, time.Second},
		{"an inbox that has kept the call is the sidecar", func(w http.ResponseWriter) error {
			return httpio.ReplayFrom(w, SourceDurable, answer)
		}, false, 0},
		{"an inbox behind another writer", func(w http.ResponseWriter) error {
			return httpio.ReplayFrom(&caddyhttp.ResponseWriterWrapper{ResponseWriter: w}, SourceDurable, answer)
		}, false, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			in := &call{account: account, service: snap.ServiceVAPayment, span: trace.SpanFromContext(t.Context())}
			histogram := telemetry.AppDuration.WithLabelValues(account.Name, "25")
			before := moduletest.Measured(t, histogram)
			next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
				clock.Move(time.Second)
				return test.app(w)
			})
			app := httpio.NewRecorder(httptest.NewRecorder(), new(bytes.Buffer))
			r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, moduletest.PaymentPath, http.NoBody)
			_, _ = v.callApp(t.Context(), app, next, r, in)
			after := moduletest.Measured(t, histogram)
			observed := after.GetSampleCount() == before.GetSampleCount()+1 && after.GetSampleSum() == before.GetSampleSum()+1
			if observed != test.observed || in.waited != test.waited {
				t.Errorf("observed: %v, expected %v; waited %s, expected %s", observed, test.observed, in.waited, test.waited)
			}
		})
	}
}

func TestAnErrorThatKnowsItsRejectionIsRejectedForIt(t *testing.T) {
	t.Parallel()
	h := moduletest.New(t, moduletest.Options{})
	v := new(Verify)
	h.Provision(t, v)
	in := &call{account: h.App().(*doku.App).Accounts[0], service: snap.ServiceVAPayment, span: trace.SpanFromContext(t.Context())}
	next := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error {
		return knowing{errors.New("the app has not taken it")}
	})
	app := httpio.NewRecorder(httptest.NewRecorder(), new(bytes.Buffer))
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, moduletest.PaymentPath, http.NoBody)
	if _, rejection := v.callApp(t.Context(), app, next, r, in); rejection == nil || rejection.Reason != "kept" {
		t.Errorf("found %v, expected the reason kept", rejection)
	}
}

// knowing is an error as the inbox returns it.
type knowing struct{ error }

func (e knowing) Rejection() *reasons.Rejection { return reject(reasons.Kept, "", e.error) }
