package inboxes

import (
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/directive"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/upstream"
)

func init() {
	httpcaddyfile.RegisterHandlerDirective("doku_inbox", parseInbox)
}

func parseInbox(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) { return Parse(h) }

// Parse sets up the handler doku_inbox. Syntax:
//
//	doku_inbox [<matcher>] [<upstreams...>] {
//		policy          after_app|durable
//		name            <name>
//		folder          <path>
//		max_size        <size>
//		answer_within   <duration>
//		attempt_timeout <duration>
//		give_up_after   <duration>
//		concurrency     <number>
//		app_answers     strict|loose
//		deliver {
//			<directives...>
//		}
//	}
//
// Upstreams are those of `reverse_proxy`, and stand for `deliver` with it. A body is
// in memory anyway, so it goes to the app in one piece with its header.
func Parse(h httpcaddyfile.Helper) (*Inbox, error) {
	i, d := new(Inbox), h.Dispenser
	d.Next() // consume the directive's name
	if upstreams := d.RemainingArgs(); len(upstreams) > 0 {
		for n, address := range upstreams {
			if err := upstream.CheckWritten(address); err != nil {
				return nil, d.WrapErr(fmt.Errorf("doku_inbox: %w", err))
			}
			upstreams[n] = `"` + strings.ReplaceAll(address, `"`, `\"`) + `"`
		}
		above := strings.Repeat("\n", max(d.Line()-2, 0)) // so that errors have the line of the directive
		tokens, err := caddyfile.Tokenize(
			[]byte(above+"deliver {\nreverse_proxy "+strings.Join(upstreams, " ")+" {\nrequest_buffers unlimited\n}\n}\n"),
			d.File(),
		)
		if err != nil {
			return nil, d.WrapErr(err)
		}
		if err := i.unmarshalDeliver(h, caddyfile.NewDispenser(tokens)); err != nil {
			return nil, err
		}
	}
	err := directive.Block(d, func() error {
		switch d.Val() {
		case "policy":
			return directive.Text(d, &i.Policy)
		case "name":
			return directive.Text(d, &i.Name)
		case "folder":
			return directive.Text(d, &i.Folder)
		case "max_size":
			return directive.Size(d, &i.MaxSize, 1<<40)
		case "answer_within":
			return directive.Duration(d, &i.AnswerWithin)
		case "attempt_timeout":
			return directive.Duration(d, &i.AttemptTimeout)
		case "give_up_after":
			return directive.Duration(d, &i.GiveUpAfter)
		case "concurrency":
			return directive.Number(d, &i.Concurrency, largestConcurrency)
		case "app_answers":
			return directive.Text(d, &i.AppAnswers)
		case "deliver":
			return i.unmarshalDeliver(h, d.NewFromNextSegment())
		}
		return directive.Unknown(d, "policy", "name", "folder", "max_size", "answer_within", "attempt_timeout", "give_up_after", "concurrency",
			"app_answers", "deliver")
	})
	if err == nil && i.Deliver == nil {
		err = d.Err("doku_inbox: expected the app's address, such as 127.0.0.1:3000, or a block `deliver` with a reverse_proxy")
	}
	return i, err
}

// unmarshalDeliver reads the handlers that bring a call to the app.
func (i *Inbox) unmarshalDeliver(h httpcaddyfile.Helper, segment *caddyfile.Dispenser) error {
	if i.Deliver != nil {
		return h.Err("deliver: expected either upstreams behind doku_inbox or one block `deliver`, found more")
	}
	route, err := httpcaddyfile.ParseSegmentAsSubroute(h.WithDispenser(segment))
	if err != nil {
		return err
	}
	i.Deliver = route.(*caddyhttp.Subroute)
	if err := upstream.CheckRoutes(i.Deliver.Routes, false); err != nil {
		return h.WrapErr(fmt.Errorf("doku_inbox: %w", err))
	}
	return nil
}
