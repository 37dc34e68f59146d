// Command bench measures the cost of signing and verifying in a Caddy binary,
// against plain reverse_proxy in the same binary. `make bench` runs it.
//
// It starts one upstream, which stands for DOKU and for the merchant's app, and
// six Caddys in front of it, each a process of its own on loopback: plain
// reverse_proxy twice, doku_sign, and doku_verify with a reverse_proxy behind it,
// once with its option request_buffers, or with doku_inbox, which keeps each call on
// the disk before it answers. It drives them in turns over keep-alive connections,
// with two kinds of calls:
//
//   - the app's: creating a virtual account, as Python's json.dumps writes it, to
//     reverse_proxy, the second reverse_proxy, and doku_sign;
//   - DOKU's: the notification of a payment, compact, each with a payment id,
//     external id, time and signature of its own, to reverse_proxy, doku_verify (both) and doku_inbox.
//
// A round is a fixed number of calls to each of these seven, in random order. In
// each round CPU time and throughput are divided by those of reverse_proxy with
// the same calls; the table has the median of these ratios over all rounds, with
// its 95 % confidence interval. The second reverse_proxy shows how much the results
// of two equal processes differ.
//
// Every answer is compared to the byte with the expected one, and the upstream
// counts its calls. A call that fails makes its row invalid and the exit
// status 1. The table goes to standard output, as Markdown; progress to standard
// error. CPU time is read from /proc, so it runs on Linux only.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// upstreamCommand is the first argument with which bench runs itself as the upstream.
const upstreamCommand = "serve-upstream"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	run := runBench
	if len(os.Args) > 1 && os.Args[1] == upstreamCommand {
		run = runUpstream
	}
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// The shortest round has some 10 ticks of CPU time; a row may take several times
// as long as reverse_proxy and must keep to roundDeadline.
const (
	shortestRound = 0.1
	longestRound  = 10.0
)

// settings are the command line.
type settings struct {
	caddy    string
	rounds   int
	seconds  float64
	sizes    []int
	conns    []int
	filling  filling
	profiles string
}

func parse(args []string, stderr io.Writer) (settings, error) {
	s := settings{filling: fillItems, sizes: []int{1 << 10, 64 << 10}, conns: []int{1, 32, 256}}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&s.caddy, "caddy", "bin/caddy-doku", "the Caddy `binary` to measure")
	flags.IntVar(&s.rounds, "rounds", 25, "paired rounds for each body size and number of connections")
	flags.Float64Var(&s.seconds, "seconds", 0.5, "about how long reverse_proxy takes for its part of a round")
	flags.Func("sizes", "body sizes in bytes, as a `list` (default 1024,65536)", list(&s.sizes))
	flags.Func("conns", "numbers of connections, as a `list` (default 1,32,256)", list(&s.conns))
	flags.Func(
		"fill",
		"what fills the bodies: `items` (a list of small objects) or text (one long string) (default items)",
		func(text string) error {
			s.filling = filling(text)
			if s.filling != fillItems && s.filling != fillText {
				return fmt.Errorf("expected %s or %s, found %q", fillItems, fillText, text)
			}
			return nil
		},
	)
	flags.BoolFunc("quick", "6 rounds of 0.25 s, for a first look; overrides -rounds and -seconds before it", func(string) error {
		s.rounds, s.seconds = 6, 0.25
		return nil
	})
	flags.StringVar(&s.profiles, "pprof", "", "write a CPU profile of each row to this `directory`, taken after its rounds")
	if err := flags.Parse(args); err != nil {
		return s, err
	}
	if flags.NArg() > 0 {
		return s, fmt.Errorf("unexpected argument %q; see -help", flags.Arg(0))
	}
	if s.rounds < 1 || s.seconds < shortestRound || s.seconds > longestRound {
		return s, fmt.Errorf(
			"expected -rounds of at least 1 and -seconds from %g to %g, found %d and %g", shortestRound, longestRound, s.rounds, s.seconds,
		)
	}
	return s, nil
}

// list returns the parser of a comma-separated list of positive numbers.
func list(into *[]int) func(string) error {
	return func(text string) error {
		*into = nil
		for field := range strings.SplitSeq(text, ",") {
			n, err := strconv.Atoi(strings.TrimSpace(field))
			if err != nil || n < 1 {
				return fmt.Errorf("expected positive numbers with commas between them, found %q", text)
			}
			*into = append(*into, n)
		}
		return nil
	}
}

func runBench(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	s, err := parse(args, stderr)
	if err != nil {
		return err
	}
	if runtime.GOOS != "linux" {
		return fmt.Errorf("CPU time is read from /proc, which needs Linux; this is %s", runtime.GOOS)
	}
	if s.profiles != "" {
		if err := os.MkdirAll(s.profiles, 0o750); err != nil {
			return err
		}
	}
	setup, err := newSetup(ctx, s.caddy, s.profiles != "")
	if err != nil {
		return err
	}
	defer setup.close()
	machine, err := machineLine(s.caddy)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(
		stdout,
		"%s\n%d paired rounds in random order, of as many calls as reverse_proxy answers in about %g s; medians; %s.\n"+
			"Bodies filled with %s. All keep up to 256 idle connections to the upstream.\n",
		machine,
		s.rounds,
		s.seconds,
		time.Now().Format(time.DateOnly),
		s.filling,
	)
	if err != nil {
		return err
	}
	synced, err := syncLine(ctx, setup.folder)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(stdout, synced); err != nil {
		return err
	}
	invalid := 0
	for _, size := range s.sizes {
		if _, err := fmt.Fprintf(stdout, "\n### Bodies of %s\n\n%s", sizeName(size), tableHead); err != nil {
			return err
		}
		for _, conns := range s.conns {
			c := benchCase{settings: s, setup: setup, size: size, conns: conns, progress: stderr}
			if err := c.run(ctx); ctx.Err() != nil {
				return errors.New("interrupted")
			} else if err != nil {
				return fmt.Errorf("%s, %d connections: %w", sizeName(size), conns, err)
			}
			for _, r := range c.rows {
				if r.err != nil {
					invalid++
				}
				if _, err := io.WriteString(stdout, r.line(conns, c.rows)); err != nil {
					return err
				}
			}
		}
	}
	if invalid > 0 {
		return fmt.Errorf("invalid rows: %d; see above", invalid)
	}
	return nil
}

func sizeName(bytes int) string {
	if bytes%(1<<10) == 0 {
		return fmt.Sprintf("%d KiB", bytes>>10)
	}
	return fmt.Sprintf("%d bytes", bytes)
}
