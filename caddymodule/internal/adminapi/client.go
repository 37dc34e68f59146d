package adminapi

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

// AddFlags adds the flags that name the admin API, to a command and those below it.
// They are those of `caddy reload` and `caddy stop`.
func AddFlags(cmd *cobra.Command) {
	flags := cmd.PersistentFlags()
	flags.String("address", "", "the address of the sidecar's admin API, if not "+caddy.DefaultAdminListen)
	flags.StringP("config", "c", "", "the configuration that names the address, if --address does not")
	flags.StringP("adapter", "a", "", "how to read --config, such as caddyfile")
}

// Usage is the part of a command's usage line that [AddFlags] adds.
const Usage = "[--address <interface>] [--config <path> [--adapter <name>]]"

// maxAnswer is the largest answer that the client reads, in bytes.
const maxAnswer = 256 << 20

// Client makes requests of a running sidecar's admin API.
type Client struct{ address string }

// NewClient returns a client for the admin API that the flags of [AddFlags] name.
func NewClient(flags caddycmd.Flags) (*Client, error) {
	address, err := caddycmd.DetermineAdminAPIAddress(flags.String("address"), nil, flags.String("config"), flags.String("adapter"))
	if err != nil {
		return nil, fmt.Errorf("finding the address of the admin API: %w", err)
	}
	return &Client{address}, nil
}

// Do makes a request, and returns the answer's body and the path of its continuation,
// or "". A status of 400 or more is an error, with the text of the admin API.
func (c *Client) Do(method, path string) (body []byte, next string, err error) {
	resp, err := caddycmd.AdminAPIRequest(c.address, method, path, nil, nil)
	if err != nil {
		return nil, "", fmt.Errorf("asking the admin API of the sidecar that runs at %s (--address or --config name another one): %w", c.address,
			err)
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
