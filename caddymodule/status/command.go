package status

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddy-doku/caddy-doku/caddymodule/doku"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/adminapi"
)

// Command returns the command `doku status`.
func Command() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status [<account>] " + adminapi.Usage + " [--json]",
		Short: "Shows the state of a running sidecar's accounts",
		Long: "Shows each account of a running sidecar: its token, how far DOKU's clock is from this\n" +
			"machine's, the store, and the fingerprints of the keys in use. It asks the sidecar's admin API,\n" +
			"which asks the store, but not DOKU. It shows no token, secret or key.\n\n" +
			"With --json, it prints the answer of the admin API as it is.",
		Example: "  caddy-doku doku status\n" +
			"  caddy-doku doku status kopi --address unix//run/caddy-doku/caddy-doku.sock\n" +
			"  caddy-doku doku status --config Caddyfile\n" +
			"  caddy-doku doku status --json | jq '.accounts[].token'",
		Args: cobra.MaximumNArgs(1),
		RunE: adminapi.Command(runStatus),
	}
	adminapi.AddFlags(cmd)
	cmd.Flags().Bool("json", false, "print JSON")
	return cmd
}

func runStatus(client *adminapi.Client, flags caddycmd.Flags, args []string) error {
	path := "/doku/accounts"
	if len(args) > 0 {
		path += "/" + url.PathEscape(args[0])
	}
	body, _, err := client.Do(http.MethodGet, path)
	if err != nil {
		return err
	}
	if flags.Bool("json") {
		_, err = os.Stdout.Write(body)
		return err
	}
	if err := printAccounts(body); err != nil {
		return err
	}
	return printInboxes(client)
}

// printInboxes prints what the inboxes of the sidecar keep.
func printInboxes(client *adminapi.Client) error {
	var states []adminapi.InboxState
	if _, err := client.Get("/doku/inbox", &states); err != nil {
		return err
	}
	for _, s := range states {
		fmt.Printf("\ninbox %s\n  %s\n", s.Name, s.Kept())
		for _, line := range s.NotKept() {
			fmt.Println("  " + line)
		}
	}
	return nil
}

// TokenCommand returns the command `doku token`.
func TokenCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Commands for the B2B token of a running sidecar's account",
	}
	adminapi.AddFlags(cmd)
	adminapi.Group(cmd).AddCommand(&cobra.Command{
		Use:   "refresh [<account>] " + adminapi.Usage,
		Short: "Fetches a new B2B token",
		Long: "A running sidecar asks DOKU for a new B2B token, even if the one in use is good. The command\n" +
			"waits for it and shows the account's state. It does not disturb calls under way, and sidecars that\n" +
			"share a store use the new token too. An only account need not be named.\n\n" +
			"The sidecar renews tokens by itself: use this to see whether DOKU gives one, such as after a change\n" +
			"of keys. After a failed attempt, nobody asks DOKU for up to 30 s, or as long as DOKU says; that\n" +
			"holds for this command too. The exit status is not 0 if there is no new token.",
		Example: "  caddy-doku doku token refresh\n" +
			"  caddy-doku doku token refresh kopi --address unix//run/caddy/admin.sock",
		Args: cobra.MaximumNArgs(1),
		RunE: adminapi.Command(runRefresh),
	})
	return cmd
}

func runRefresh(client *adminapi.Client, _ caddycmd.Flags, args []string) error {
	if len(args) == 0 {
		name, err := onlyAccount(client)
		if err != nil {
			return err
		}
		args = []string{name}
	}
	body, _, err := client.Do(http.MethodPost, "/doku/accounts/"+url.PathEscape(args[0])+"/token")
	if err != nil {
		return err
	}
	return printAccounts(body)
}

// onlyAccount returns the name of the running sidecar's only account.
func onlyAccount(client *adminapi.Client) (string, error) {
	body, _, err := client.Do(http.MethodGet, "/doku/accounts")
	if err != nil {
		return "", err
	}
	accounts, err := readAccounts(body)
	if err != nil {
		return "", err
	}
	if len(accounts) == 1 {
		return accounts[0].Name, nil
	}
	names := make([]string, len(accounts))
	for i, a := range accounts {
		names[i] = a.Name
	}
	return "", fmt.Errorf("there are %d accounts; name one of: %s", len(accounts), strings.Join(names, ", "))
}

// readAccounts reads the state of all accounts, or of one.
func readAccounts(body []byte) ([]accountStatus, error) {
	var answer struct {
		accountsStatus
		accountStatus
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("the answer of the admin API is not understood: %w", err)
	}
	if answer.Accounts == nil && answer.Name == "" {
		return nil, errors.New("the answer of the admin API has no account; is it of another version?")
	}
	if answer.Accounts == nil {
		return []accountStatus{answer.accountStatus}, nil
	}
	return answer.Accounts, nil
}

func printAccounts(body []byte) error {
	accounts, err := readAccounts(body)
	if err != nil {
		return err
	}
	return writeAccounts(os.Stdout, accounts)
}

// writeAccounts writes a table with a line for each account, then its keys and its
// faults.
func writeAccounts(w io.Writer, accounts []accountStatus) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "ACCOUNT\tCLIENT ID\tTOKEN\tRENEWED\tEXPIRES\tDOKU'S CLOCK\tSTORE")
	for _, a := range accounts {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", a.Name, a.ClientID, age(a.Token), in(a.Token.RefreshInSeconds),
			in(a.Token.ExpiresInSeconds), offset(a.Clock), storeText(a.Store))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	details := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, a := range accounts {
		fmt.Fprintf(details, "\n%s\n", a.Name)
		fmt.Fprintf(details, "  environment\t%s\n", a.BaseURL)
		fmt.Fprintf(details, "  merchant's key\t%s\n", a.Keys.Merchant)
		for _, key := range a.Keys.DOKU {
			fmt.Fprintf(details, "  DOKU's key\t%s\n", key)
		}
		fmt.Fprintf(details, "  secrets\t%d\n", a.Keys.Secrets)
		if last := a.Token.LastFetch; last != nil && last.Error == "" {
			fmt.Fprintf(details, "  last fetch\t%s ago (%s)\n", span(last.AgoSeconds), last.Reason)
		}
		for _, fault := range faults(a) {
			fmt.Fprintf(details, "  %s\t%s\n", fault[0], fault[1])
		}
	}
	return details.Flush()
}

// faults returns the faults of an account, each with a title.
func faults(a accountStatus) (all [][2]string) {
	if last := a.Token.LastFetch; last != nil && last.Error != "" {
		all = append(
			all,
			[2]string{"TOKEN", fmt.Sprintf("%s (%d in a row, the last %s ago; %s)", last.Error, last.Failures, span(last.AgoSeconds), last.Hint)},
		)
	}
	for _, of := range [][2]string{{"STORE", a.Store.Error}, {"KEYS", a.Keys.Error}} {
		if of[1] != "" {
			all = append(all, of)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(a.Checks)) {
		if text := a.Checks[name]; text != doku.CheckOK {
			all = append(all, [2]string{strings.ToUpper(name), text})
		}
	}
	return all
}

func span(s float64) string {
	return (time.Duration(s*10) * time.Second / 10).Round(time.Second).String()
}

func age(t tokenStatus) string {
	switch {
	case t.Held && t.AgeSeconds != nil:
		return span(*t.AgeSeconds) + " old"
	case t.Fetching:
		return "being fetched"
	}
	return "none"
}

func in(s *float64) string {
	switch {
	case s == nil:
		return "-"
	case *s <= 0:
		return "now"
	}
	return "in " + span(*s)
}

func offset(c clockStatus) string {
	text := "not known"
	if c.OffsetSeconds != nil {
		text = fmt.Sprintf("%+.1fs", *c.OffsetSeconds)
	}
	if c.Correcting {
		text += ", corrected"
	}
	return text
}

func storeText(s storeStatus) string {
	if !s.OK {
		return s.Type + ", AWAY"
	}
	return fmt.Sprintf("%s, %.2f ms", s.Type, s.LatencyMillis)
}
