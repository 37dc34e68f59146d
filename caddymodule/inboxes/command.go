package inboxes

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"text/tabwriter"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/adminapi"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/telemetry"
)

// Command returns the command `doku inbox`.
func Command() *cobra.Command {
	command := &cobra.Command{
		Use:   "inbox",
		Short: "Shows the inboxes of a running sidecar, and works on them",
		Long: "Shows the inboxes of a running sidecar, and works on them, through its admin API.\n\n" +
			"An inbox keeps the payment notifications that the app has not taken. Each has a key, which is\n" +
			"also the Idempotency-Key that the app gets.",
		Example: "  caddy-doku doku inbox list\n" +
			"  caddy-doku doku inbox show 3f9a0c…\n" +
			"  caddy-doku doku inbox retry --dead\n" +
			"  caddy-doku doku inbox export > kept.jsonl",
	}
	command.PersistentFlags().String("inbox", "default", "the inbox's name")
	adminapi.AddFlags(adminapi.Group(command))
	add := func(c *cobra.Command, args cobra.PositionalArgs, run func(inboxClient, []string) error) *cobra.Command {
		c.Args = args
		c.RunE = adminapi.Command(func(client *adminapi.Client, flags caddycmd.Flags, args []string) error {
			return run(inboxClient{client, flags.String("inbox"), flags, os.Stdout}, args)
		})
		command.AddCommand(c)
		return c
	}
	add(&cobra.Command{Use: "list", Short: "Lists the kept notifications, dead letters too"}, cobra.NoArgs, inboxClient.list)
	add(&cobra.Command{Use: "show <key>", Short: "Shows a notification with headers and body"}, cobra.ExactArgs(1), inboxClient.show)
	retry := add(&cobra.Command{
		Use: "retry <key>… | --dead", Short: "Delivers notifications to the app now; dead ones start anew",
	}, cobra.ArbitraryArgs, inboxClient.retry)
	retry.Flags().Bool("dead", false, "all dead ones")
	add(&cobra.Command{
		Use: "drop <key>…", Short: "Removes notifications; the app will not get them",
	}, cobra.MinimumNArgs(1), inboxClient.drop)
	add(&cobra.Command{
		Use: "export", Short: "Writes the kept notifications to the standard output, a line of JSON each, with bodies",
	}, cobra.NoArgs, inboxClient.export)
	return command
}

// inboxClient asks a running sidecar's admin API about one inbox.
type inboxClient struct {
	client *adminapi.Client
	inbox  string
	flags  caddycmd.Flags
	out    io.Writer
}

// path returns the path of the inbox, or of something below it.
func (c inboxClient) path(rest string) string { return "/doku/inbox/" + url.PathEscape(c.inbox) + rest }

// each calls f for each of the inbox's notifications, in the JSON of the admin API.
func (c inboxClient) each(bodies bool, f func(json.RawMessage) error) error {
	path := c.path(fmt.Sprintf("?bodies=%v&limit=%d", bodies, pageSize(bodies)))
	for path != "" {
		var page []json.RawMessage
		next, err := c.client.Get(path, &page)
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

// pageSize returns how many notifications one request returns.
func pageSize(bodies bool) int {
	if bodies {
		return 50
	}
	return defaultLimit
}

// keptCall is a notification in the admin API.
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
	MaybeTaken int         `json:"maybe_taken"`
	Body       string      `json:"body"`
}

// lastError returns the last error, and in front of it that the app may have booked the
// payment.
func (c keptCall) lastError() string {
	if c.MaybeTaken > 0 {
		return "MAYBE BOOKED: " + c.Error
	}
	return c.Error
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
		next := call.Due.Local().Format(time.RFC3339)
		if call.Dead {
			next = "dead"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%d\t%s\t%.80s\n", call.Key, call.Account, call.Service,
			call.Received.Local().Format(time.RFC3339), call.Attempts, next, telemetry.Printable(call.lastError()))
	})
	if err != nil {
		return err
	}
	if err := table.Flush(); err != nil {
		return err
	}
	var states []adminapi.InboxState
	if _, err := c.client.Get("/doku/inbox", &states); err != nil {
		return err
	}
	for _, s := range states {
		if s.Name != c.inbox {
			continue
		}
		lines := s.NotKept()
		if listed == 0 {
			lines = append([]string{s.Kept()}, lines...)
		}
		for _, line := range lines {
			if _, err := fmt.Fprintf(c.out, "inbox %q: %s\n", c.inbox, line); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c inboxClient) show(keys []string) error {
	var call keptCall
	if _, err := c.client.Get(c.path("/"+url.PathEscape(keys[0])), &call); err != nil {
		return err
	}
	state := "next try " + call.Due.Local().Format(time.RFC3339) + ", given up " + call.GiveUp.Local().Format(time.RFC3339)
	if call.Dead {
		state = "dead: given up; `retry` delivers it again"
	}
	if call.MaybeTaken > 0 {
		state += "\nbooked       maybe: the app answered 2xx, but no yes. Look there before you `retry` or `drop` it"
	}
	fmt.Fprintf(c.out,
		"key          %s\naccount      %s\nservice      %s\nexternal id  %s\npayment id   %s\nreceived     %s\nattempts     %d\nlast error   %s\nstate        %s\n\nPOST %s\n",
		call.Key, call.Account, call.Service, call.ExternalID, telemetry.Printable(call.PaymentID), call.Received.Local().Format(time.RFC3339),
		call.Attempts, telemetry.Printable(call.Error), state, call.Target)
	if err := call.Header.Write(c.out); err != nil {
		return err
	}
	_, err := fmt.Fprintf(c.out, "\n%s\n", telemetry.Printable(call.Body))
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
			_, err := fmt.Fprintf(c.out, "The inbox %q has no dead notifications.\n", c.inbox)
			return err
		}
	}
	return c.change(keys, "is tried now", func(key string) error {
		_, _, err := c.client.Do(http.MethodPost, c.path("/"+url.PathEscape(key)+"/retry"))
		return err
	})
}

func (c inboxClient) drop(keys []string) error {
	return c.change(keys, "is removed", func(key string) error {
		_, _, err := c.client.Do(http.MethodDelete, c.path("/"+url.PathEscape(key)))
		return err
	})
}

// change calls do for each key, and prints the result.
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
