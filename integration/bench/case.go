package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// kind is a row of the table: one Caddy with one kind of calls.
type kind struct {
	name    string
	slug    string // in the names of files
	option  string // for the Caddyfile's global options
	site    string
	server  int    // the row whose Caddy it is
	inbound bool   // the calls are DOKU's, not the app's
	seen    string // the kind of calls that the upstream must report
	base    int    // the row of reverse_proxy with the same calls
	durable bool   // calls are answered first and delivered to the upstream later
}

const (
	rowPlain = iota
	rowNull
	rowSign
	rowPlainInbound
	rowVerify
	rowBuffered
	rowDurable
)

var kinds = [...]kind{
	rowPlain: {name: "reverse_proxy", slug: "plain", site: plainSite, server: rowPlain, seen: seenPlain, base: rowPlain},
	rowNull:  {name: "reverse_proxy, a second one", slug: "null", site: plainSite, server: rowNull, seen: seenPlain, base: rowPlain},
	rowSign: {
		name:   "doku_sign",
		slug:   "sign",
		option: dokuOption,
		site:   signSite,
		server: rowSign,
		seen:   seenSigned,
		base:   rowPlain,
	},
	rowPlainInbound: {
		name:    "reverse_proxy, DOKU's calls",
		slug:    "plain-inbound",
		server:  rowPlain,
		inbound: true,
		seen:    seenSigned,
		base:    rowPlainInbound,
	},
	rowVerify: {
		name:    "doku_verify, DOKU's calls",
		slug:    "verify",
		option:  dokuOption,
		site:    verifySite,
		server:  rowVerify,
		inbound: true,
		seen:    seenVerified,
		base:    rowPlainInbound,
	},
	rowBuffered: {
		name:    "doku_verify, request_buffers, DOKU's calls",
		slug:    "buffered",
		option:  dokuOption,
		site:    bufferedSite,
		server:  rowBuffered,
		inbound: true,
		seen:    seenVerified,
		base:    rowPlainInbound,
	},
	rowDurable: {
		name:    "doku_inbox durable, DOKU's calls",
		slug:    "durable",
		option:  dokuOption,
		site:    durableSite,
		server:  rowDurable,
		inbound: true,
		base:    rowPlainInbound,
		durable: true,
	},
}

// row has the measurements of a kind in one case. After an error it gets no more load.
type row struct {
	kind
	caddy  *process
	load   *load
	want   []byte
	rounds []round
	memory int64 // of the Caddy, in bytes, after the last round
	err    error
}

// round is one round of a row.
type round struct {
	perSecond float64 // calls answered
	p50, p99  time.Duration
	cpu       time.Duration // of the Caddy, per call
}

// benchCase is one body size and number of connections.
type benchCase struct {
	settings    settings
	setup       *setup
	size, conns int
	progress    io.Writer

	rows []*row
	app  batch // the app's calls of a round
	doku *dokuCalls
	made int // calls so far
}

// run measures the case and leaves the result in c.rows. Its error makes all of them
// useless; a row whose calls fail has an error of its own.
func (c *benchCase) run(ctx context.Context) error {
	// New Caddys for each case, so that none starts with the ledger of another.
	defer c.close()
	if err := c.open(ctx); err != nil {
		return err
	}
	before, err := c.setup.served(ctx)
	if err != nil {
		return err
	}
	if err := c.warm(ctx); err != nil {
		return err
	}
	order := rand.New(rand.NewPCG(1, uint64(c.size+c.conns))) //nolint:gosec // the order of rows, no secret
	for n := range c.settings.rounds {
		fmt.Fprintf(c.progress, "%s, %d connections: round %d of %d\n", sizeName(c.size), c.conns, n+1, c.settings.rounds)
		if err := c.round(ctx, order.Perm(len(c.rows))); err != nil {
			return err
		}
	}
	for _, r := range c.rows {
		if r.err != nil {
			continue
		}
		if r.memory, err = r.caddy.memory(); err != nil {
			return err
		}
		if c.settings.profiles == "" {
			continue
		}
		if err := c.profile(ctx, r); err != nil {
			return fmt.Errorf("profile of %s: %w", r.name, err)
		}
	}
	return c.count(ctx, before)
}

// open starts the Caddys and connects to them.
func (c *benchCase) open(ctx context.Context) error {
	for i := range kinds {
		k := kinds[i]
		r := &row{kind: k, want: answerTo(k.seen)}
		if k.durable {
			r.want = []byte(acknowledgement)
		}
		var err error
		if k.server == i {
			if r.caddy, err = c.setup.startCaddy(ctx, k.name, k.option, k.site); err != nil {
				return err
			}
		} else {
			r.caddy = c.rows[k.server].caddy
		}
		c.rows = append(c.rows, r)
		if r.load, err = dial(ctx, r.caddy.address, c.conns); err != nil {
			return fmt.Errorf("connecting to %s: %w", r.name, err)
		}
	}
	verify := c.rows[rowVerify].caddy // its token is good for all with the same secret
	token, err := c.setup.inboundToken(ctx, verify.address)
	if err != nil {
		return fmt.Errorf("asking doku_token for a token: %w: %s", err, verify.log)
	}
	c.doku = &dokuCalls{clientID: clientID, secret: c.setup.secret, token: token, size: c.size, with: c.settings.filling}
	return nil
}

func (c *benchCase) close() {
	for _, r := range c.rows {
		if r.load != nil {
			r.load.close()
		}
		r.caddy.stop()
	}
}

// warm finds the number of calls for a round, and makes a round of them at each
// row that doesn't count.
func (c *benchCase) warm(ctx context.Context) error {
	wanted := time.Duration(c.settings.seconds * float64(time.Second))
	for n := 4 * c.conns; ; n *= 2 {
		var err error
		if c.app, err = appCalls(c.size, n, c.settings.filling); err != nil {
			return err
		}
		start := time.Now()
		if _, err := c.drive(ctx, c.rows[rowPlain], c.app); err != nil {
			return err
		}
		took := time.Since(start)
		if took < wanted/2 {
			continue
		}
		if c.app, err = appCalls(c.size, max(4*c.conns, int(float64(n)*wanted.Seconds()/took.Seconds())), c.settings.filling); err != nil {
			return err
		}
		break
	}
	if err := c.round(ctx, []int{rowPlain, rowNull, rowSign, rowPlainInbound, rowVerify, rowBuffered, rowDurable}); err != nil {
		return err
	}
	for _, r := range c.rows {
		r.rounds = nil
	}
	return nil
}

// round drives the rows once, in the given order.
func (c *benchCase) round(ctx context.Context, order []int) error {
	// Signed now, outside the time that is measured.
	inbound, err := c.doku.sign(len(c.app.calls), time.Now())
	if err != nil {
		return err
	}
	for _, i := range order {
		r, b := c.rows[i], c.app
		if r.inbound {
			b = inbound
		}
		if r.err != nil {
			continue
		}
		measured, err := c.drive(ctx, r, b)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			r.err = err
			fmt.Fprintf(c.progress, "%s, %d connections: %s is invalid: %v\n", sizeName(c.size), c.conns, r.name, err)
		default:
			r.rounds = append(r.rounds, measured)
		}
	}
	return nil
}

// drive makes the calls of b at the Caddy of r.
func (c *benchCase) drive(ctx context.Context, r *row, b batch) (round, error) {
	served := 0
	if r.durable {
		var err error
		if served, err = c.setup.served(ctx); err != nil {
			return round{}, err
		}
	}
	before, err := r.caddy.cpu()
	if err != nil {
		return round{}, err
	}
	start := time.Now()
	took, err := r.load.run(ctx, b, r.want)
	elapsed := time.Since(start)
	if err != nil {
		return round{}, fmt.Errorf("%s: %w; its log: %s", r.name, err, r.caddy.log)
	}
	if r.durable { // its deliveries are part of what it costs, and not to disturb the others
		if err := c.setup.awaitServed(ctx, served+len(b.calls)); err != nil {
			return round{}, fmt.Errorf("%s: %w; its log: %s", r.name, err, r.caddy.log)
		}
	}
	after, err := r.caddy.cpu()
	if err != nil {
		return round{}, err
	}
	c.made += len(b.calls)
	slices.Sort(took)
	return round{
		perSecond: float64(len(b.calls)) / elapsed.Seconds(),
		p50:       percentile(took, 50),
		p99:       percentile(took, 99),
		cpu:       (after - before) / time.Duration(len(b.calls)),
	}, nil
}

// count checks that the upstream has answered each call once.
func (c *benchCase) count(ctx context.Context, before int) error {
	if slices.ContainsFunc(c.rows, func(r *row) bool { return r.err != nil }) {
		return nil // nobody knows how many calls there were
	}
	after, err := c.setup.served(ctx)
	if err != nil {
		return err
	}
	if after-before != c.made {
		return fmt.Errorf("%d calls were made but the upstream has answered %d", c.made, after-before)
	}
	return nil
}

const profileSeconds = 5

// profile drives a row until a CPU profile of its Caddy is taken.
func (c *benchCase) profile(ctx context.Context, r *row) error {
	fmt.Fprintf(c.progress, "%s, %d connections: profile of %s\n", sizeName(c.size), c.conns, r.name)
	asking, cancel := context.WithTimeout(ctx, profileSeconds*time.Second+askDeadline)
	defer cancel()
	req, err := http.NewRequestWithContext(
		asking, http.MethodGet, fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", r.caddy.admin, profileSeconds), http.NoBody,
	)
	if err != nil {
		return err
	}
	type answer struct {
		profile []byte
		err     error
	}
	taken := make(chan answer, 1)
	go func() {
		profile, err := ask(req)
		taken <- answer{profile, err}
	}()
	for {
		select {
		case got := <-taken:
			if got.err != nil {
				return got.err
			}
			return os.WriteFile(
				filepath.Join(c.settings.profiles, fmt.Sprintf("%s-%d-%d.pprof", r.slug, c.size, c.conns)), got.profile, 0o600,
			)
		default:
		}
		b := c.app
		if r.inbound {
			if b, err = c.doku.sign(len(c.app.calls), time.Now()); err != nil {
				return err
			}
		}
		if _, err := c.drive(ctx, r, b); err != nil {
			return err
		}
	}
}
