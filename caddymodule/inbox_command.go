package caddymodule

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

// inboxCommand returns the commands that look into the inboxes of a running
// sidecar, and work on them, through its admin API.
func inboxCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "inbox",
		Short: "Looks into the inboxes of a running sidecar, and works on them",
		Long: "Looks into the inboxes of a running sidecar, and works on them, through its admin API.\n\n" +
			"An inbox keeps the payment notifications that the app has not taken. They are told apart\n" +
			"by their key, which is also the Idempotency-Key that the app gets.",
		Example: "  caddy-doku doku inbox list\n" +
			"  caddy-doku doku inbox show 3f9a0c…\n" +
			"  caddy-doku doku inbox retry --dead\n" +
			"  caddy-doku doku inbox export > kept.jsonl",
	}
	command.PersistentFlags().String("inbox", "default", "the inbox's name")
	command.PersistentFlags().String("address", "", "the address of the admin API (default: that of the configuration file, or localhost:2019)")
	command.PersistentFlags().String("config", "", "the configuration file to take the admin API's address from")
	command.PersistentFlags().String("adapter", "", "the configuration file's adapter, such as caddyfile")
	add := func(c *cobra.Command, args cobra.PositionalArgs, run func(inboxClient, []string) error) *cobra.Command {
		c.Args = args
		c.RunE = func(cmd *cobra.Command, args []string) error {
			return caddycmd.WrapCommandFuncForCobra(func(flags caddycmd.Flags) (int, error) {
				client, err := newInboxClient(flags)
				if err == nil {
					err = run(client, args)
				}
				if err != nil {
					return caddy.ExitCodeFailedStartup, err
				}
				return caddy.ExitCodeSuccess, nil
			})(cmd, args)
		}
		command.AddCommand(c)
		return c
	}
	add(&cobra.Command{Use: "list", Short: "Lists what is kept, dead ones too"}, cobra.NoArgs, inboxClient.list)
	add(&cobra.Command{Use: "show <key>", Short: "Shows a notification with headers and body"}, cobra.ExactArgs(1), inboxClient.show)
	retry := add(&cobra.Command{
		Use: "retry <key>… | --dead", Short: "Hands notifications to the app now, dead ones as if they were new",
	}, cobra.ArbitraryArgs, inboxClient.retry)
	retry.Flags().Bool("dead", false, "all dead ones")
	add(&cobra.Command{
		Use: "drop <key>…", Short: "Removes notifications, which the app will not get then",
	}, cobra.MinimumNArgs(1), inboxClient.drop)
	add(&cobra.Command{
		Use: "export", Short: "Writes what is kept to the standard output, a line of JSON each, with bodies",
	}, cobra.NoArgs, inboxClient.export)
	return command
}

// inboxClient speaks with a running sidecar's admin API about one inbox.
type inboxClient struct {
	address string
	box     string
	flags   caddycmd.Flags
	out     io.Writer
}

func newInboxClient(flags caddycmd.Flags) (inboxClient, error) {
	address, err := adminAddress(flags)
	return inboxClient{address, flags.String("inbox"), flags, os.Stdout}, err
}

// ask sends a request about the inbox, or one of its calls, and decodes the answer
// into what is given, if it is not nil.
func (c inboxClient) ask(method, rest string, into any) error {
	_, err := c.fetch(method, "/doku/inbox/"+url.PathEscape(c.box)+rest, into)
	return err
}

// fetch is ask for a whole path. It returns where the answer is continued, or "".
func (c inboxClient) fetch(method, path string, into any) (next string, err error) {
	resp, err := caddycmd.AdminAPIRequest(c.address, method, path, nil, nil)
	if err != nil {
		return "", asking(c.address, err)
	}
	defer resp.Body.Close()
	if into == nil {
		return "", nil
	}
	if target, found := strings.CutSuffix(resp.Header.Get("Link"), `>; rel="next"`); found {
		next = strings.TrimPrefix(target, "<")
	}
	return next, json.NewDecoder(resp.Body).Decode(into)
}

// each calls f for each of the inbox's calls, as the admin API tells of it.
func (c inboxClient) each(bodies bool, f func(json.RawMessage) error) error {
	path := fmt.Sprintf("/doku/inbox/%s?bodies=%v&limit=%d", url.PathEscape(c.box), bodies, pageOf(bodies))
	for path != "" {
		var page []json.RawMessage
		next, err := c.fetch(http.MethodGet, path, &page)
		if err != nil {
			return err
		}
		for _, call := range page {
			if err := f(call); err != nil {
				return err
			}
		}
		path = next
	}
	return nil
}

// pageOf returns how many calls to ask for at once.
func pageOf(bodies bool) int {
	if bodies {
		return 50
	}
	return listDefault
}

// keptCall is a notification, as the admin API tells of it.
type keptCall struct {
	Key        string      `json:"key"`
	Account    string      `json:"account"`
	Service    string      `json:"service"`
	ExternalID string      `json:"external_id"`
	PaymentID  string      `json:"payment_id"`
	Target     string      `json:"target"`
	Header     http.Header `json:"header"`
	Received   time.Time   `json:"received"`
	Attempts   int         `json:"attempts"`
	Due        time.Time   `json:"due"`
	GiveUp     time.Time   `json:"give_up"`
	Error      string      `json:"error"`
	Dead       bool        `json:"dead"`
	Body       string      `json:"body"`
}

// eachKept is each without bodies.
func (c inboxClient) eachKept(f func(keptCall)) error {
	return c.each(false, func(raw json.RawMessage) error {
		var call keptCall
		if err := json.Unmarshal(raw, &call); err != nil {
			return err
		}
		f(call)
		return nil
	})
}

func (c inboxClient) list([]string) error {
	table, listed := tabwriter.NewWriter(c.out, 0, 8, 2, ' ', 0), 0
	err := c.eachKept(func(call keptCall) {
		if listed == 0 {
			fmt.Fprintln(table, "KEY\tACCOUNT\tSERVICE\tRECEIVED\tATTEMPTS\tNEXT\tLAST ERROR")
		}
		listed++
		next := call.Due.Local().Format(time.DateTime)
		if call.Dead {
			next = "dead"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%d\t%s\t%.80s\n", call.Key, call.Account, call.Service,
			call.Received.Local().Format(time.DateTime), call.Attempts, next, call.Error)
	})
	if err != nil {
		return err
	}
	if listed == 0 {
		_, err := fmt.Fprintf(c.out, "The inbox %q is empty: the app has taken everything.\n", c.box)
		return err
	}
	return table.Flush()
}

func (c inboxClient) show(keys []string) error {
	var call keptCall
	if err := c.ask(http.MethodGet, "/"+url.PathEscape(keys[0]), &call); err != nil {
		return err
	}
	state := "next try " + call.Due.Local().Format(time.DateTime) + ", given up " + call.GiveUp.Local().Format(time.DateTime)
	if call.Dead {
		state = "dead: given up; `retry` hands it over again"
	}
	fmt.Fprintf(c.out, "key          %s\naccount      %s\nservice      %s\nexternal id  %s\npayment id   %s\nreceived     %s\nattempts     %d\nlast error   %s\nstate        %s\n\nPOST %s\n",
		call.Key, call.Account, call.Service, call.ExternalID, call.PaymentID, call.Received.Local().Format(time.DateTime), call.Attempts, call.Error, state, call.Target)
	if err := call.Header.Write(c.out); err != nil {
		return err
	}
	_, err := fmt.Fprintf(c.out, "\n%s\n", call.Body)
	return err
}

func (c inboxClient) retry(keys []string) error {
	if dead := c.flags.Bool("dead"); dead != (len(keys) == 0) {
		return errors.New("expected either keys or --dead")
	} else if dead {
		err := c.eachKept(func(call keptCall) {
			if call.Dead {
				keys = append(keys, call.Key)
			}
		})
		if err != nil {
			return err
		}
		if len(keys) == 0 {
			_, err := fmt.Fprintf(c.out, "The inbox %q has no dead notifications.\n", c.box)
			return err
		}
	}
	return c.change(keys, "is handed to the app now", func(key string) error {
		return c.ask(http.MethodPost, "/"+url.PathEscape(key)+"/retry", nil)
	})
}

func (c inboxClient) drop(keys []string) error {
	return c.change(keys, "is removed", func(key string) error { return c.ask(http.MethodDelete, "/"+url.PathEscape(key), nil) })
}

// change does something to each of some calls, and tells.
func (c inboxClient) change(keys []string, done string, do func(key string) error) error {
	var errs []error
	for _, key := range keys {
		if err := do(key); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", key, err))
			continue
		}
		fmt.Fprintln(c.out, key, done)
	}
	return errors.Join(errs...)
}

func (c inboxClient) export([]string) error {
	encoder := json.NewEncoder(c.out)
	encoder.SetEscapeHTML(false)
	return c.each(true, func(call json.RawMessage) error { return encoder.Encode(call) })
}
