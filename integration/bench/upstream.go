package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/caddy-doku/caddy-doku/snap"
)

// The kinds of calls that the upstream reports in its answers.
const (
	seenPlain    = "plain"
	seenSigned   = "signed"   // it has a signature
	seenVerified = "verified" // the sidecar has removed the signature and added its headers
)

// answerTo returns the upstream's answer to a call.
func answerTo(seen string) []byte {
	return []byte(`{"responseCode":"2002700","responseMessage":"Successful","virtualAccountData":{"partnerServiceId":"  088899",` +
		`"customerNo":"00000000000000000001","virtualAccountNo":"  08889900000000000000000001"},"additionalInfo":{"seen":"` + seen + `"}}`)
}

// acknowledgement is the beginning of the answer to a call that the inbox keeps.
const acknowledgement = `{"responseCode":"2002500","responseMessage":"Successful","virtualAccountData":{`

// newUpstream returns the handler that stands for DOKU and for the merchant's app.
func newUpstream() http.Handler {
	var served atomic.Int64
	send := func(w http.ResponseWriter, body []byte) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = w.Write(body) // the load notices
	}
	answers := make(map[string][]byte)
	for _, seen := range []string{seenPlain, seenSigned, seenVerified} {
		answers[seen] = answerTo(seen)
	}
	mux := http.NewServeMux()
	mux.HandleFunc(tokenPath, func(w http.ResponseWriter, _ *http.Request) {
		send(
			w,
			[]byte(
				`{"responseCode":"2007300","responseMessage":"Successful","accessToken":"`+strings.Repeat(
					"token", tokenLength/5,
				)+`","tokenType":"Bearer","expiresIn":900}`,
			),
		)
	})
	mux.HandleFunc(servedPath, func(w http.ResponseWriter, _ *http.Request) {
		send(w, strconv.AppendInt(nil, served.Load(), 10))
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		seen := seenPlain
		switch signed := r.Header.Get(snap.HeaderSignature) != ""; {
		case signed:
			seen = seenSigned
		case r.Header.Get("X-Doku-Account") != "":
			seen = seenVerified
		}
		if n, err := io.Copy(io.Discard, r.Body); err != nil || n != r.ContentLength {
			http.Error(w, fmt.Sprintf("expected a body of %d bytes, found %d: %v", r.ContentLength, n, err), http.StatusBadRequest)
			return
		}
		served.Add(1)
		send(w, answers[seen])
	})
	return mux
}

// runUpstream serves the upstream on a loopback port, which it prints as its
// first line, until stdin ends or ctx does.
func runUpstream(ctx context.Context, _ []string, stdout, _ io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // ends with the process
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: newUpstream(), ReadHeaderTimeout: roundDeadline}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if _, err := fmt.Fprintln(stdout, listener.Addr()); err != nil {
		return err
	}
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
