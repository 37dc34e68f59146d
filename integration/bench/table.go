package main

import (
	"debug/buildinfo"
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// machineLine names the machine, and the versions in the Caddy binary.
func machineLine(caddy string) (string, error) {
	info, err := buildinfo.ReadFile(caddy)
	if err != nil {
		return "", fmt.Errorf("reading the versions in %s: %w", caddy, err)
	}
	version := "of unknown version"
	for _, dep := range info.Deps {
		if dep.Path == "github.com/caddyserver/caddy/v2" {
			version = dep.Version
		}
	}
	cpus, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "", err
	}
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s, %d cores, Linux %s; %s, Caddy %s; load, Caddy and upstream on the same machine, plain HTTP over loopback.",
		cpuModel(string(cpus)), runtime.NumCPU(), strings.TrimSpace(string(kernel)), info.GoVersion, version), nil
}

// cpuModel returns the name of the first CPU in the text of /proc/cpuinfo.
func cpuModel(text string) string {
	for line := range strings.Lines(text) {
		// Not every architecture has it.
		if name, value, found := strings.Cut(line, ":"); found && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

const tableHead = `| target | connections | req/s | p50 ms | p99 ms | CPU µs/req | RSS MiB | ` +
	`req/s ÷ reverse_proxy | CPU ÷ reverse_proxy (95 %) |
|---|--:|--:|--:|--:|--:|--:|--:|--:|
`

// line returns the row's line of the table: medians over the rounds.
func (r *row) line(conns int, rows []*row) string {
	if r.err != nil {
		return fmt.Sprintf(
			"| %s | %d | invalid: %.100s… |\n", r.name, conns, strings.NewReplacer("\n", " ", "|", "/").Replace(r.err.Error()),
		)
	}
	column := func(of func(round) float64) float64 {
		values := make([]float64, len(r.rounds))
		for i, one := range r.rounds {
			values[i] = of(one)
		}
		return median(values)
	}
	throughput, cpu := "", ""
	if base := rows[r.base]; base == r {
		throughput, cpu = "1", "1"
	} else if base.err == nil {
		throughput = fmt.Sprintf("%.2f", median(ratios(r, base, func(one round) float64 { return one.perSecond })))
		all := ratios(r, base, func(one round) float64 { return one.cpu.Seconds() })
		cpu = fmt.Sprintf("%.2f", median(all))
		if low, high, ok := interval(all); ok {
			cpu += fmt.Sprintf(" (%.2f–%.2f)", low, high)
		}
	}
	return fmt.Sprintf("| %s | %d | %.0f | %.2f | %.2f | %.0f | %.0f | %s | %s |\n", r.name, conns,
		column(func(one round) float64 { return one.perSecond }),
		column(func(one round) float64 { return milliseconds(one.p50) }),
		column(func(one round) float64 { return milliseconds(one.p99) }),
		column(func(one round) float64 { return one.cpu.Seconds() * 1e6 }),
		float64(r.memory)/(1<<20), throughput, cpu)
}

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1e3 }

// ratios returns, round by round, a measurement of r as a multiple of that of base.
func ratios(r, base *row, of func(round) float64) []float64 {
	all := make([]float64, len(r.rounds))
	for i := range r.rounds {
		all[i] = of(r.rounds[i]) / of(base.rounds[i])
	}
	return all
}

// percentile returns the smallest value that is at least as large as p percent
// of the sorted values.
func percentile(sorted []time.Duration, p int) time.Duration {
	return sorted[(len(sorted)*p+99)/100-1]
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// interval returns the confidence interval of the median by the sign test: it
// assumes nothing of how the values are distributed, and covers the median in
// 95 % of cases or a little more. Fewer than 6 values are too few for one.
func interval(values []float64) (low, high float64, ok bool) {
	const outside = 0.05 / 2 // at each end
	n := len(values)
	// The k-th smallest value is above the median if fewer than k of n values
	// are below it, as likely as fewer than k heads in n tosses of a coin.
	k, chance := 0, math.Pow(0.5, float64(n)) // chance of exactly k heads
	for sum := chance; sum <= outside; sum += chance {
		chance *= float64(n-k) / float64(k+1)
		k++
	}
	if k == 0 {
		return 0, 0, false
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[k-1], sorted[n-k], true
}
