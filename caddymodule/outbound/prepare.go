package outbound

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/httpio"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/reasons"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/refusal"
	"github.com/caddy-doku/caddy-doku/signer"
	"github.com/caddy-doku/caddy-doku/snap"
)

// prepare makes a call of the app's request. The call is never nil; the error is a
// [*reasons.Rejection].
func (s *Sign) prepare(ctx context.Context, w http.ResponseWriter, r *http.Request) (*call, error) {
	c := &call{method: r.Method, target: r.URL.Path, channelID: r.Header.Get(snap.HeaderChannelID)}
	c.service, _ = snap.ServiceOf(r.Method, r.URL.Path)
	err := s.fill(c.startSigning(ctx), c, w, r)
	return c, err
}

func (s *Sign) fill(ctx context.Context, c *call, w http.ResponseWriter, r *http.Request) error {
	if err := s.readHead(c, w, r); err != nil {
		if r.ContentLength != 0 {
			httpio.Abandon(w, r)
		}
		return err
	}
	if err := s.readBody(ctx, c, w, r); err != nil {
		return err
	}
	if err := s.applyKey(ctx, c, r); err != nil {
		return err
	}
	if c.keyed != nil && c.keyed.Answer != nil {
		return nil
	}
	if err := s.awaitToken(ctx, c); err != nil {
		return c.failure(err)
	}
	return nil
}

// readHead decides what can be decided without the body.
func (s *Sign) readHead(c *call, w http.ResponseWriter, r *http.Request) error {
	var unknown error
	c.account, unknown = s.selector.Account(r) // first, because what is rejected is counted by account
	if err := s.admit(c, w, r); err != nil {
		return err
	}
	if unknown != nil {
		return reject(reasons.Account, "[no such account; nothing was sent]", unknown)
	}
	if err := c.checkPartner(r.Header); err != nil {
		return err
	}
	c.credentials = c.account.Credentials()
	if err := checkRepeated(r.Header); err != nil {
		return err
	}
	if err := s.setExternalID(c, r.Header); err != nil {
		return err
	}
	s.warnOfOddIDs(r.Context(), c)
	s.setChannelID(c)
	return nil
}

// checkRepeated rejects a call with two values of a header of which DOKU reads one.
func checkRepeated(h http.Header) error {
	for _, name := range onceOnly {
		if values := h[name]; len(values) > 1 {
			return reject(
				reasons.HeaderRepeated,
				fmt.Sprintf("%s [expected it once, found %d; nothing was sent]", strings.ToUpper(name), len(values)),
				fmt.Errorf("the app's header %s: expected it once, found %.60q", name, values),
			)
		}
	}
	return nil
}

// channelLongest is the length of a CHANNEL-ID in SNAP, of letters and digits.
const channelLongest = 5

// warnOfOddIDs warns of ids of the app that SNAP does not have, but that DOKU takes from its own
// libraries.
func (s *Sign) warnOfOddIDs(ctx context.Context, c *call) {
	if c.ownID && !signer.ValidExternalID(c.externalID) {
		s.log.LogAttrs(ctx, slog.LevelWarn,
			"the app's X-EXTERNAL-ID is not what SNAP wants, 1 to 36 digits: DOKU takes such ids from its own libraries, but nothing promises it; "+
				"leave it out, or send digits", c.logAttrs()...)
	}
	if len(c.channelID) > channelLongest || strings.Trim(c.channelID, alphanumerics) != "" {
		s.log.LogAttrs(ctx, slog.LevelWarn,
			"the CHANNEL-ID is not what SNAP wants, 1 to 5 letters and digits; leave it out, unless DOKU gave it to you",
			c.logAttrs(slog.String("channel_id", refusal.Shown(c.channelID, refusal.Longest)))...)
	}
}

const alphanumerics = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

// setChannelID gives the call a CHANNEL-ID, if the app has not.
func (s *Sign) setChannelID(c *call) {
	switch {
	case c.channelID != "":
	case s.ChannelID != "":
		c.channelID = s.ChannelID
	case c.path == directDebitPath:
		c.channelID = directDebitChannelID
	default:
		c.channelID = defaultChannelID
	}
}

// awaitToken waits for a token, so that the transport finds one, if the call needs one.
func (s *Sign) awaitToken(ctx context.Context, c *call) error {
	if c.path == b2b2cTokenPath {
		return nil
	}
	if _, ok := c.account.Tokens().Current(ctx); ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(s.TokenTimeout))
	defer cancel()
	if _, err := c.token(ctx); err != nil {
		return noToken(err)
	}
	return nil
}

// checkPartner rejects a call that the app addresses to another account.
func (c *call) checkPartner(h http.Header) error {
	values := snap.HeaderValues(h, snap.HeaderPartnerID)
	if len(values) == 0 || len(values) == 1 && values[0] == c.account.ID() {
		return nil
	}
	return reject(
		reasons.Account,
		fmt.Sprintf("X-PARTNER-ID [expected %s, the client id of the account that was chosen, or none; found %.60q; nothing was sent]",
			c.account.ID(), values),
		fmt.Errorf("the app's X-PARTNER-ID: expected %s, the client id of account %q, or none, found %.60q", c.account.ID(), c.account.Name,
			values),
	)
}

// setExternalID gives the call the app's X-EXTERNAL-ID or a new one.
func (s *Sign) setExternalID(c *call, h http.Header) (err error) {
	values := snap.HeaderValues(h, snap.HeaderExternalID)
	if len(values) == 0 {
		if c.externalID, err = signer.ExternalID(s.now(), s.random); err != nil {
			return &reasons.Rejection{Case: snap.GeneralError, Reason: reasons.ExternalID, Err: err}
		}
		return nil
	}
	if len(values) > 1 || !signer.SendableExternalID(values[0]) {
		return reject(reasons.ExternalID, "X-EXTERNAL-ID [expected 1 to 64 letters, digits and any of -_.:+, once; or leave it out]",
			errors.New("X-EXTERNAL-ID of the app is not 1 to 64 letters, digits and any of -_.:+, once"))
	}
	c.externalID, c.ownID = values[0], true
	return nil
}

// readBody reads the app's body and makes it ready to sign and send.
func (s *Sign) readBody(ctx context.Context, c *call, w http.ResponseWriter, r *http.Request) error {
	began := s.now()
	control := http.NewResponseController(w)
	deadline, _ := ctx.Deadline()
	limited := control.SetReadDeadline(deadline) == nil // not every writer has deadlines
	raw, err := httpio.ReadBody(r, s.MaxBody, httpio.GetBuffer)
	if limited && err == nil {
		err = control.SetReadDeadline(time.Time{})
	}
	c.waited += s.now().Sub(began)
	defer func() { httpio.PutBuffer(raw) }() // the call has a copy
	if err != nil {
		httpio.Abandon(w, r)
		if errors.Is(err, httpio.ErrTooLarge) {
			return reject(reasons.BodyTooLarge, fmt.Sprintf("[more than max_body, %d bytes]", s.MaxBody), err)
		}
		return reject(reasons.BodyUnreadable, "[the request body ended early, or took too long]", err)
	}
	if len(raw) > 0 {
		var hazards []snap.Hazard
		if s.Body == bodyMinify {
			c.body, err = snap.AppendMinified(httpio.GetBuffer(len(raw)), raw)
		} else {
			c.body, hazards, err = snap.AppendCanonical(httpio.GetBuffer(len(raw)), raw)
		}
		if err == nil {
			err = checkObject(raw)
		}
		if err != nil {
			return reject(reasons.BodyNotJSON, "[the body is not a JSON object: "+err.Error()+"]", err)
		}
		if len(hazards) > 0 {
			list := describe(hazards)
			if s.Body == bodyStrict {
				return reject(reasons.BodyUnsafe, list, errors.New(list))
			}
			s.log.LogAttrs(ctx, slog.LevelWarn,
				"the body has parts that DOKU may hash differently; send amounts as strings and every key once",
				c.logAttrs(slog.String("hazards", list))...)
		}
	}
	c.digest = snap.Digest(c.body)
	return nil
}

// checkObject returns an error unless raw, which is JSON, is an object in UTF-8: SNAP has no
// other bodies, and JSON no other encoding (RFC 8259, 8.1).
func checkObject(raw []byte) error {
	switch first := bytes.TrimLeft(raw, " \t\r\n"); {
	case first[0] == '"':
		return errors.New("expected an object, found a string; it may have been encoded twice")
	case first[0] == '[':
		return errors.New("expected an object, found an array")
	case first[0] != '{':
		return fmt.Errorf("expected an object, found %.20q", first)
	case utf8.Valid(raw):
		return nil
	}
	offset := 0
	for {
		r, size := utf8.DecodeRune(raw[offset:])
		if r == utf8.RuneError && size <= 1 {
			return fmt.Errorf("expected UTF-8, found the byte %#02x at offset %d; send the text in UTF-8", raw[offset], offset)
		}
		offset += size
	}
}

func describe(hazards []snap.Hazard) string {
	parts := make([]string, len(hazards))
	for i, hazard := range hazards {
		parts[i] = fmt.Sprintf("%s: %s", hazard.Path, hazard.Kind)
	}
	return strings.Join(parts, "; ")
}
