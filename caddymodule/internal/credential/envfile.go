package credential

import "strings"

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
