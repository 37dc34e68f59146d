package inbound

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/httpio"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/reasons"
	"github.com/caddy-doku/caddy-doku/internal/appanswer"
	"github.com/caddy-doku/caddy-doku/internal/store"
	"github.com/caddy-doku/caddy-doku/snap"
)

// The values of the option app_answers.
const (
	AnswersStrict = "strict"
	AnswersLoose  = "loose"
)

// ValidateAnswers checks a value of the option app_answers.
func ValidateAnswers(value string) error {
	switch value {
	case "", AnswersStrict, AnswersLoose:
		return nil
	}
	return fmt.Errorf("app_answers: expected strict or loose, found %q", value)
}

// WarnOfLooseAnswers warns, when a configuration loads, that a directive takes bare answers
// for a yes.
func (b Base) WarnOfLooseAnswers(directive string) {
	b.Log.Warn("app_answers loose: an empty or plain-text 2xx of the app counts as booked, also if it comes from something else "+
		"in front of the app; let the app answer with a responseCode, and remove the option", "directive", directive)
}

// judge returns the app's answer for DOKU. If the answer decides nothing, judge returns why
// instead. An inbox has judged its answers.
func (v *Verify) judge(ctx context.Context, in *call, app *httpio.Recorder) (store.Answer, *reasons.Rejection) {
	if app.Source() != "" {
		return app.Answer(), nil
	}
	said := appanswer.Judge(in.service, app.Answer(), v.AppAnswers == AnswersLoose)
	if said.OtherService {
		v.base.Log.LogAttrs(ctx, slog.LevelWarn, "the app has answered with the responseCode of another service",
			slog.String("account", in.account.Name), slog.String("service", string(in.service)),
			slog.String("external_id", in.id.ExternalID), slog.String("response_code", string(said.Code)))
	}
	if !said.ForDOKU() {
		rejection := reject(reasons.AppUndecided, "", said)
		rejection.Hint = said.Hint()
		switch said.Status { // those of the app say more than 500
		case http.StatusServiceUnavailable, http.StatusTooManyRequests, http.StatusTooEarly:
			rejection.Case = snap.Unavailable
		case http.StatusGatewayTimeout, http.StatusRequestTimeout:
			rejection.Case = snap.Timeout
		}
		return store.Answer{}, rejection
	}
	if said.Decision == appanswer.Undecided {
		in.undecided = said
	}
	return said.Answer, nil
}

// logAppRefusal warns that the app has refused a call. appStatus is the app's HTTP status;
// DOKU gets answer.
func (v *Verify) logAppRefusal(ctx context.Context, in *call, appStatus int, answer store.Answer) {
	status := answer.Status
	message := "the app has refused a DOKU call"
	hint := "the app's own log says why"
	attrs := []slog.Attr{
		slog.String("account", in.account.Name), slog.String("service", string(in.service)), slog.String("external_id", in.id.ExternalID),
		slog.Int("app_status", appStatus), slog.Int("status", status), slog.String("reason", reasons.AppRefused),
		slog.String("response_code", fmt.Sprintf("%.7s", snap.CodeOf(answer.Body))),
	}
	if in.undecided != nil {
		message = "the app cannot answer a DOKU call now"
		hint = in.undecided.Hint() + repeats(in.service)
		attrs = append(attrs, slog.String("error", in.undecided.Error()))
	} else if status != appStatus && appStatus < http.StatusMultipleChoices {
		message = "the app answered with an HTTP status that says yes and a responseCode that says no: DOKU gets the no"
		hint = "the app must answer 2xx only with a responseCode of 2xx"
	}
	v.base.Log.LogAttrs(ctx, slog.LevelWarn, message, append(attrs, slog.String("hint", hint))...) //nolint:sloglint // one of three
}
