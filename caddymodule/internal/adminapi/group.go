package adminapi

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// Group makes a command one that only has commands below it: without arguments it shows
// its help, and with an unknown command it fails, where cobra shows the help too.
func Group(cmd *cobra.Command) *cobra.Command {
	const letters = 2 // that a word may differ by to be suggested
	cmd.SuggestionsMinimumDistance = letters
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 || args[0] == "help" {
			return cmd.Help()
		}
		if similar := cmd.SuggestionsFor(args[0]); len(similar) > 0 {
			return fmt.Errorf("unknown command %q for %q; did you mean %s?", args[0], cmd.CommandPath(), strings.Join(similar, " or "))
		}
		var names []string
		for _, below := range cmd.Commands() {
			names = append(names, below.Name())
		}
		return fmt.Errorf("unknown command %q for %q; there are: %s", args[0], cmd.CommandPath(), strings.Join(names, ", "))
	}
	return cmd
}
