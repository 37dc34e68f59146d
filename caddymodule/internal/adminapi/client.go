package adminapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

// AddFlags adds the flags that name the admin API, to a command and those below it.
// They are those of `caddy reload` and `caddy stop`.
func AddFlags(cmd *cobra.Command) {
	flags := cmd.PersistentFlags()
	flags.String("address", "", "the address of the sidecar's admin API, such as unix/caddy-doku.sock or "+caddy.DefaultAdminListen)
	flags.StringP(
		"config",
		"c",
		"",
		"the configuration that names the address, if --address does not (default: Caddyfile, if it is in this folder)",
	)
	flags.StringP("adapter", "a", "", "how to read --config, such as caddyfile")
}

// Usage is the part of a command's usage line that [AddFlags] adds.
const Usage = "[--address <interface>] [--config <path> [--adapter <name>]]"

// maxAnswer is the largest answer that the client reads, in bytes.
const maxAnswer = 256 << 20

// Client makes requests of a running sidecar's admin API.
type Client struct {
	address string
	looked  string // where the address is from, if nobody named one; see [lookedIn]
}

// NewClient returns a client for the admin API that the flags of [AddFlags] name.
func NewClient(flags caddycmd.Flags) (*Client, error) {
	address, config := flags.String("address"), flags.String("config")
	looked := ""
	if address == "" && config == "" {
		var err error
		if address, err = addressIn(defaultConfig); err != nil {
			return nil, fmt.Errorf("finding the address of the admin API, which --address can name, in %s: %w", defaultConfig, err)
		}
		looked = lookedIn(address)
	}
	address, err := caddycmd.DetermineAdminAPIAddress(address, nil, config, flags.String("adapter"))
	if err != nil {
		return nil, fmt.Errorf("finding the address of the admin API: %w", err)
	}
	return &Client{address: besides(address, config), looked: looked}, nil
}

// lookedIn says where a command has looked for the address of the admin API that nobody
// named: in the folder in which it runs, which may be another than the sidecar's.
func lookedIn(address string) string {
	folder, err := os.Getwd()
	if err != nil {
		folder = "this folder"
	}
	const todo = "run the command in the folder in which the sidecar was started, or name its admin API, such as " +
		"`--address unix//run/caddy-doku/caddy-doku.sock`"
	if address != "" {
		return fmt.Sprintf("the address is from %s; %s", filepath.Join(folder, defaultConfig), todo)
	}
	if _, err := os.Stat(defaultConfig); err == nil {
		return fmt.Sprintf("%s names no address, so this is Caddy's own; %s", filepath.Join(folder, defaultConfig), todo)
	}
	return fmt.Sprintf("%s has no %s, so this is Caddy's own address; %s", folder, defaultConfig, todo)
}

// defaultConfig is the configuration that Caddy's own commands use, too, if none is named.
const defaultConfig = "Caddyfile"

// addressIn returns the address of the admin API that a Caddyfile names, or "" if it names
// none or there is no such file.
func addressIn(file string) (string, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	adapter := caddyconfig.GetAdapter("caddyfile")
	if adapter == nil {
		return "", nil
	}
	adapted, _, err := adapter.Adapt(text, map[string]any{"filename": file})
	if err != nil {
		return "", err
	}
	var parsed struct {
		Admin struct {
			Listen string `json:"listen"`
		} `json:"admin"`
	}
	if err := json.Unmarshal(adapted, &parsed); err != nil {
		return "", err
	}
	return parsed.Admin.Listen, nil
}

// besides returns the address of a socket whose relative path is not in this folder, but
// beside the configuration.
func besides(address, config string) string {
	network, path, found := strings.Cut(address, "/")
	if !found || network != "unix" || config == "" || filepath.IsAbs(path) {
		return address
	}
	path, mode, hasMode := strings.Cut(path, "|")
	if hasMode {
		mode = "|" + mode
	}
	other := filepath.Join(filepath.Dir(config), path)
	if _, err := os.Stat(path); err == nil {
		return address
	}
	if _, err := os.Stat(other); err != nil {
		return address
	}
	return network + "/" + other + mode
}

// Do makes a request, and returns the answer's body and the path of its continuation,
// or "". A status of 400 or more is an error, with the text of the admin API.
func (c *Client) Do(method, path string) (body []byte, next string, err error) {
	resp, err := caddycmd.AdminAPIRequest(c.address, method, path, nil, nil)
	if err != nil {
		return nil, "", c.explain(err)
	}
	defer resp.Body.Close()
	if body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer)); err != nil {
		return nil, "", fmt.Errorf("reading the answer of the admin API: %w", err)
	}
	if target, found := strings.CutSuffix(resp.Header.Get("Link"), `>; rel="next"`); found {
		next = strings.TrimPrefix(target, "<")
	}
	return body, next, nil
}

// dialTimeout limits the look whether anything listens at the address of the admin API.
const dialTimeout = 2 * time.Second

// explain says what an error of the admin API means. Caddy's client hides the cause, so
// this looks whether anything listens there.
func (c *Client) explain(err error) error {
	address, unknown := caddy.ParseNetworkAddress(c.address)
	if unknown != nil || address.PortRangeSize() > 1 {
		return fmt.Errorf("asking the sidecar: %w", err)
	}
	network, target := address.Network, address.JoinHostPort(0)
	if address.IsUnixNetwork() {
		target, _, _ = strings.Cut(target, "|") // the rest is its mode
	}
	conn, dialErr := (&net.Dialer{Timeout: dialTimeout}).DialContext(context.Background(), network, target)
	where := c.address
	if address.IsUnixNetwork() && !filepath.IsAbs(target) {
		if whole, err := filepath.Abs(target); err == nil {
			where += " (" + whole + ")"
		}
	}
	todo := "name the address of another with --address or --config"
	if c.looked != "" {
		todo = c.looked
	}
	switch {
	case dialErr == nil:
		_ = conn.Close() // nothing was written
		return fmt.Errorf("asking the sidecar at %s: %w", where, err)
	case address.IsUnixNetwork() && errors.Is(dialErr, syscall.ECONNREFUSED):
		return fmt.Errorf("nobody answers at %s: no sidecar runs there; (re)start the sidecar, or: %s", where, todo)
	case errors.Is(dialErr, syscall.ECONNREFUSED):
		return fmt.Errorf("no sidecar runs at %s; start one with `caddy-doku run`, or: %s", where, todo)
	case errors.Is(dialErr, fs.ErrNotExist):
		return fmt.Errorf("no sidecar runs at %s: there is no such socket; start one with `caddy-doku run`, or: %s", where, todo)
	case errors.Is(dialErr, fs.ErrPermission):
		return fmt.Errorf("this user may not open the admin API at %s; use the user that runs the sidecar", where)
	}
	return fmt.Errorf("the sidecar at %s cannot be reached; --address or --config name another one: %w", c.address, dialErr)
}

// Get decodes the answer to a GET into value, and returns the path of its
// continuation, or "".
func (c *Client) Get(path string, value any) (next string, err error) {
	body, next, err := c.Do(http.MethodGet, path)
	if err != nil {
		return "", err
	}
	if err := json.Unmarshal(body, value); err != nil {
		return "", fmt.Errorf("the answer of the admin API is not understood: %w", err)
	}
	return next, nil
}

// Command returns a RunE for a command that uses the client.
func Command(run func(client *Client, flags caddycmd.Flags, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		return caddycmd.WrapCommandFuncForCobra(func(flags caddycmd.Flags) (int, error) {
			client, err := NewClient(flags)
			if err == nil {
				err = run(client, flags, args)
			}
			if err != nil {
				return caddy.ExitCodeFailedStartup, err
			}
			return caddy.ExitCodeSuccess, nil
		})(cmd, args)
	}
}
