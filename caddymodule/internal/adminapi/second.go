package adminapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/spf13/cobra"
)

// GuardRun makes `run` refuse to start if another process answers at its admin API. Caddy
// opens the admin API before any app, and takes a unix socket away from whoever has it: the
// start then fails at the ports of the sites, but commands and reloads no longer reach the
// sidecar that runs. `start` runs `run`, so it refuses too.
//
// member is any command of the program. Cobra calls the function when it knows which
// command runs and before it runs.
func GuardRun(member *cobra.Command) {
	cobra.OnInitialize(func() {
		run, _, err := member.Root().Find(os.Args[1:])
		if err != nil || run.Name() != "run" || run.Parent() != member.Root() {
			return
		}
		earlier := run.PreRunE
		run.PreRunE = func(cmd *cobra.Command, args []string) error {
			if err := checkAlone(cmd); err != nil {
				return err
			}
			if earlier != nil {
				return earlier(cmd, args)
			}
			return nil
		}
	})
}

// checkAlone returns an error if another process answers at the address of the admin API in
// the configuration that a command is about to run, or its socket cannot be made. What cannot be read is Caddy's to report.
func checkAlone(cmd *cobra.Command) error {
	flag := func(name string) string {
		if f := cmd.Flags().Lookup(name); f != nil {
			return f.Value.String()
		}
		return ""
	}
	file, adapter := flag("config"), flag("adapter")
	if flag("resume") == "true" {
		if _, err := os.Stat(caddy.ConfigAutosavePath); err == nil {
			file, adapter = caddy.ConfigAutosavePath, ""
		}
	}
	admin, shared, ours := adminOf(file, adapter)
	if !ours || admin == "" {
		return nil
	}
	if err := checkSocket(admin); err != nil {
		return err
	}
	if shared || !answers(admin) {
		return nil
	}
	return fmt.Errorf("another process answers at %s, the admin API of this configuration, and this start would take it away: "+
		"stop that process, use `caddy-doku reload`, or give one of them another address in the global option admin. "+
		"If it is a sidecar whose end overlaps with this start, write `share_ports` in the global option doku", admin)
}

// adminOf returns the address of the admin API in a configuration file, or "" if there is
// none, and whether starts may overlap. It reports ours if the configuration has the app doku.
func adminOf(file, adapter string) (address string, shared, ours bool) {
	if file == "-" {
		return "", false, false // it can be read only once
	}
	if file == "" {
		file = defaultConfig
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", false, false
	}
	if adapter == "" && isCaddyfile(file) {
		adapter = "caddyfile"
	}
	if adapter != "" {
		if found := caddyconfig.GetAdapter(adapter); found == nil {
			return "", false, false
		} else if text, _, err = found.Adapt(text, map[string]any{"filename": file}); err != nil {
			return "", false, false
		}
	}
	var parsed struct {
		Admin struct {
			Listen   string `json:"listen"`
			Disabled bool   `json:"disabled"`
		} `json:"admin"`
		Apps struct {
			DOKU *struct {
				SharePorts bool `json:"share_ports"`
			} `json:"doku"`
		} `json:"apps"`
	}
	if json.NewDecoder(bytes.NewReader(text)).Decode(&parsed) != nil || parsed.Apps.DOKU == nil || parsed.Admin.Disabled {
		return "", false, false
	}
	address, err = caddy.NewReplacer().ReplaceOrErr(parsed.Admin.Listen, true, true)
	if parsed.Admin.Listen == "" {
		address, err = caddy.DefaultAdminListen, nil
	}
	return address, parsed.Apps.DOKU.SharePorts, err == nil
}

// isCaddyfile reports whether Caddy reads a file as a Caddyfile by its name.
func isCaddyfile(file string) bool {
	base := strings.ToLower(filepath.Base(file))
	extension := filepath.Ext(base)
	return strings.HasPrefix(base, "caddyfile") && extension != ".json" || extension == ".caddyfile"
}

// longestSocket is the longest path of a unix socket on this system, in bytes.
const longestSocket = len(syscall.RawSockaddrUnix{}.Path) - 1

// checkSocket returns an error if the unix socket of the admin API cannot be made: Caddy's
// own error names neither the folder nor the setting.
func checkSocket(listen string) error {
	address, err := caddy.ParseNetworkAddress(listen)
	if err != nil || !address.IsUnixNetwork() || address.IsFdNetwork() {
		return nil //nolint:nilerr // Caddy says what is wrong with an address
	}
	path, _, _ := strings.Cut(address.JoinHostPort(0), "|") // the rest is its mode
	if path == "" || strings.HasPrefix(path, "@") {
		return nil // no file
	}
	const todo = "start the sidecar in another folder, or name another place in the global option `admin`, such as " +
		"`admin unix//run/caddy-doku/admin.sock|0600`"
	if len(path) > longestSocket {
		return fmt.Errorf("the socket of the admin API, %s, cannot be made: its path has %d bytes, and a socket's has at most %d; %s",
			path, len(path), longestSocket, todo)
	}
	whole, err := filepath.Abs(path)
	if err != nil {
		whole = path
	}
	if info, err := os.Stat(whole); err == nil && info.Mode()&os.ModeSocket == 0 {
		return fmt.Errorf("the socket of the admin API cannot be made: %s is there, and no socket; remove it, or %s", whole, todo)
	}
	probe, err := os.CreateTemp(filepath.Dir(whole), ".caddy-doku-*")
	if err != nil {
		if pathErr, ok := errors.AsType[*os.PathError](err); ok {
			err = pathErr.Err
		}
		return fmt.Errorf("the socket of the admin API cannot be made: the user that runs the sidecar cannot write in the folder %s: %w; %s",
			filepath.Dir(whole), err, todo)
	}
	return errors.Join(probe.Close(), os.Remove(probe.Name()))
}

// answers reports whether a process takes connections at an address of Caddy's. The socket
// of a process that has ended takes none.
func answers(listen string) bool {
	address, err := caddy.ParseNetworkAddress(listen)
	if err != nil || address.IsFdNetwork() || address.PortRangeSize() > 1 {
		return false
	}
	network, target := address.Network, address.JoinHostPort(0)
	if address.IsUnixNetwork() {
		target, _, _ = strings.Cut(target, "|") // the rest is its mode
	} else if address.StartPort == 0 || !strings.HasPrefix(network, "tcp") {
		return false
	}
	conn, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(context.Background(), network, target)
	if err == nil {
		return conn.Close() == nil
	}
	// A process that takes no more connections for now is one that runs.
	return errors.Is(err, os.ErrDeadlineExceeded)
}
