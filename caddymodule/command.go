package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddy-doku/caddy-doku/internal/tour"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "doku",
		Usage: "<command>",
		Short: "Commands for DOKU's SNAP API",
		Long: "Commands for DOKU's SNAP API: a tour of what the sidecar does, and the state and the inboxes of one that runs.\n" +
			"Those about one that runs ask its admin API: see `--address`.",
		CobraFunc: func(cmd *cobra.Command) {
			cmd.AddCommand(tourCommand(), statusCommand(), tokenCommand(), inboxCommand())
		},
	})
}

func tourCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "tour",
		Short: "Shows the sidecar at work against a simulated DOKU",
		Long: "Starts a simulated DOKU, this sidecar and a small merchant app, all on loopback with keys made\n" +
			"for the occasion, walks through every flow, and stays up until Ctrl-C.",
		Args: cobra.NoArgs,
		RunE: caddycmd.WrapCommandFuncForCobra(runTour),
	}
	cmd.Flags().Bool("once", false, "end after the walk; the exit status tells whether every step went well")
	return cmd
}

func runTour(flags caddycmd.Flags) (int, error) {
	binary, err := os.Executable()
	if err != nil {
		return caddy.ExitCodeFailedStartup, fmt.Errorf("finding this program: %w", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err = tour.Run(ctx, tour.Options{Sidecar: binary, Once: flags.Bool("once"), Out: os.Stdout, Log: os.Stderr})
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	return caddy.ExitCodeSuccess, nil
}

func statusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status [<account>] [--address <interface>] [--config <path> [--adapter <name>]] [--json]",
		Short: "Shows the state of a running sidecar's accounts",
		Long: "Shows, for each account of a running sidecar: its token, how far DOKU's clock is from this\n" +
			"machine's, the store, and the fingerprints of the keys in use. It asks the sidecar's admin API and\n" +
			"the store, but not DOKU; no token, secret or key is shown.\n\n" +
			"With --json, the answer of the admin API is printed as it is.",
		Example: "  caddy-doku doku status\n" +
			"  caddy-doku doku status kopi --address localhost:2019\n" +
			"  caddy-doku doku status --config Caddyfile\n" +
			"  caddy-doku doku status --json | jq '.accounts[].token'",
		Args: cobra.MaximumNArgs(1),
		RunE: caddycmd.WrapCommandFuncForCobra(runStatus),
	}
	addAdminFlags(cmd)
	cmd.Flags().Bool("json", false, "print JSON")
	return cmd
}

func runStatus(flags caddycmd.Flags) (int, error) {
	path := "/doku/accounts"
	if name := flags.Arg(0); name != "" {
		path += "/" + url.PathEscape(name)
	}
	body, err := askAdmin(flags, http.MethodGet, path)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	if flags.Bool("json") {
		_, err = os.Stdout.Write(body)
		return caddy.ExitCodeSuccess, err
	}
	return printAccounts(body)
}

func tokenCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Commands for the B2B token of a running sidecar's account",
	}
	refresh := &cobra.Command{
		Use:   "refresh [<account>] [--address <interface>] [--config <path> [--adapter <name>]]",
		Short: "Has a new B2B token fetched",
		Long: "Has a running sidecar ask DOKU for a new B2B token, even if the one in use is good, waits for it,\n" +
			"and shows the account's state. Calls that are under way are not disturbed, and sidecars that share\n" +
			"a store take the new token over. The account need not be named if it is the only one.\n\n" +
			"The sidecar renews tokens by itself: this is to see whether DOKU gives one, such as after a change\n" +
			"of keys. After an attempt that has failed, DOKU is left alone for up to 30 s, or as long as it has\n" +
			"asked for, by this command too. The exit status is not 0 if there is no new token.",
		Example: "  caddy-doku doku token refresh\n" +
			"  caddy-doku doku token refresh kopi --address unix//run/caddy/admin.sock",
		Args: cobra.MaximumNArgs(1),
		RunE: caddycmd.WrapCommandFuncForCobra(runRefresh),
	}
	addAdminFlags(refresh)
	cmd.AddCommand(refresh)
	return cmd
}

func runRefresh(flags caddycmd.Flags) (int, error) {
	name := flags.Arg(0)
	if name == "" {
		var err error
		if name, err = onlyAccount(flags); err != nil {
			return caddy.ExitCodeFailedStartup, err
		}
	}
	body, err := askAdmin(flags, http.MethodPost, "/doku/accounts/"+url.PathEscape(name)+"/token")
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	return printAccounts(body)
}

// onlyAccount returns the name of the running sidecar's only account.
func onlyAccount(flags caddycmd.Flags) (string, error) {
	body, err := askAdmin(flags, http.MethodGet, "/doku/accounts")
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

// addAdminFlags adds the flags by which the admin API is found, as those of
// `caddy reload` and `caddy stop`.
func addAdminFlags(cmd *cobra.Command) {
	cmd.Flags().String("address", "", "the address of the sidecar's admin API, if not "+caddy.DefaultAdminListen)
	cmd.Flags().StringP("config", "c", "", "the configuration that names the address, if --address does not")
	cmd.Flags().StringP("adapter", "a", "", "how to read --config, such as caddyfile")
}

const adminAnswerLargest = 16 << 20

// askAdmin makes a request of the admin API that the flags name, and returns the
// body of the answer.
func askAdmin(flags caddycmd.Flags, method, path string) ([]byte, error) {
	address, err := adminAddress(flags)
	if err != nil {
		return nil, err
	}
	resp, err := caddycmd.AdminAPIRequest(address, method, path, nil, nil)
	if err != nil {
		return nil, asking(address, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, adminAnswerLargest))
	if err != nil {
		return nil, fmt.Errorf("reading the answer of the admin API: %w", err)
	}
	return body, nil
}

// adminAddress returns the address of the admin API that the flags name.
func adminAddress(flags caddycmd.Flags) (string, error) {
	address, err := caddycmd.DetermineAdminAPIAddress(flags.String("address"), nil, flags.String("config"), flags.String("adapter"))
	if err != nil {
		return "", fmt.Errorf("finding the address of the admin API: %w", err)
	}
	return address, nil
}

// asking returns the error of a request of the admin API.
func asking(address string, err error) error {
	return fmt.Errorf("asking the admin API of the sidecar that runs at %s (--address or --config name another one): %w", address, err)
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
		return nil, errors.New("the answer of the admin API tells of no account; is it of another version?")
	}
	if answer.Accounts == nil {
		return []accountStatus{answer.accountStatus}, nil
	}
	return answer.Accounts, nil
}

func printAccounts(body []byte) (int, error) {
	accounts, err := readAccounts(body)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	if err := writeAccounts(os.Stdout, accounts); err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	return caddy.ExitCodeSuccess, nil
}

// writeAccounts writes a table: a line of each account, then its keys and what is
// the matter with it.
func writeAccounts(w io.Writer, accounts []accountStatus) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "ACCOUNT\tCLIENT ID\tTOKEN\tRENEWED\tEXPIRES\tDOKU'S CLOCK\tSTORE")
	for _, a := range accounts {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", a.Name, a.ClientID, age(a.Token), in(a.Token.RefreshInSeconds), in(a.Token.ExpiresInSeconds),
			offset(a.Clock), storeText(a.Store))
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
		for _, trouble := range troubles(a) {
			fmt.Fprintf(details, "  %s\t%s\n", trouble[0], trouble[1])
		}
	}
	return details.Flush()
}

// troubles returns what is the matter with an account.
func troubles(a accountStatus) (all [][2]string) {
	if last := a.Token.LastFetch; last != nil && last.Error != "" {
		all = append(all, [2]string{"TOKEN", fmt.Sprintf("%s (%d in a row, the last %s ago; %s)", last.Error, last.Failures, span(last.AgoSeconds), last.Hint)})
	}
	for _, of := range [][2]string{{"STORE", a.Store.Error}, {"KEYS", a.Keys.Error}} {
		if of[1] != "" {
			all = append(all, of)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(a.Checks)) {
		if said := a.Checks[name]; said != wordOK {
			all = append(all, [2]string{strings.ToUpper(name), said})
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
