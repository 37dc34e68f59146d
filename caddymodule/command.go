package caddymodule

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddy-doku/caddy-doku/caddymodule/inboxes"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/adminapi"
	"github.com/caddy-doku/caddy-doku/caddymodule/status"
	"github.com/caddy-doku/caddy-doku/internal/tour"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "doku",
		Usage: "<command>",
		Short: "Commands for DOKU's SNAP API",
		Long: "Commands for DOKU's SNAP API: a tour of the sidecar, and the state and inboxes of a running one.\n" +
			"Commands about a running sidecar ask its admin API: see `--address`.",
		CobraFunc: func(cmd *cobra.Command) {
			adminapi.GuardRun(cmd)
			adminapi.Group(cmd).AddCommand(tourCommand(), status.Command(), status.TokenCommand(), inboxes.Command())
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
