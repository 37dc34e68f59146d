package credential

import (
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"
)

var variablePlaceholder = regexp.MustCompile(`\{env\.([^{}]+)\}`)

// VariablesIn returns the names of the variables that settings name, in order.
func VariablesIn(settings []string) (names []string) {
	for _, setting := range settings {
		for _, found := range variablePlaceholder.FindAllStringSubmatch(setting, -1) {
			names = append(names, found[1])
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// WarnOfVariables says that a reload does not read variables anew. Whether one has been
// changed elsewhere can be known only of a file that the arguments of `caddy run` name.
func WarnOfVariables(log *slog.Logger, args, names []string) {
	log.Info("a reload does not read variables anew: their values are those of the start; a changed variable needs a restart, "+
		"a changed file does not", "variables", names)
	for _, file := range EnvFiles(args) {
		content, err := Read(file)
		if err != nil {
			log.Warn("the file of variables cannot be read any more", "file", file, "error", err)
			continue
		}
		for _, name := range names {
			if value, known := ValueIn(string(content), name); known && value != os.Getenv(name) {
				log.Warn("a variable has another value in its file than the one in use, which stays until a restart", "variable", name, "file", file)
			}
		}
	}
}

// EnvFiles returns the files that the arguments of `caddy run` name.
func EnvFiles(args []string) (files []string) {
	for i, arg := range args {
		if value, found := strings.CutPrefix(arg, "--envfile="); found {
			files = append(files, strings.Split(value, ",")...)
		} else if arg == "--envfile" && i+1 < len(args) {
			files = append(files, strings.Split(args[i+1], ",")...)
		}
	}
	return files
}

// ValueIn returns the value of a variable in an env file as Caddy reads it. A value of
// several lines is not known.
func ValueIn(content, name string) (value string, known bool) {
	for line := range strings.Lines(content) {
		key, text, found := strings.Cut(strings.TrimSpace(line), "=")
		if !found || strings.TrimPrefix(key, "export ") != name {
			continue
		}
		if before, _, comment := strings.Cut(text, "#"); comment {
			text = strings.TrimRight(before, " \t")
		}
		known = true
		if quote := text[:min(len(text), 1)]; quote == `"` || quote == "'" {
			known = len(text) > 1 && strings.HasSuffix(text, quote)
			text = strings.Trim(text, quote)
		}
		value = text
	}
	return value, known
}
