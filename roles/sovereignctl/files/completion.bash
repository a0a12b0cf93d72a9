# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# Placed by the role sovereignctl of mushishi.sovereign: what may come next is the command's own answer.
_sovereignctl() {
    local word
    COMPREPLY=()
    while IFS= read -r word; do
        COMPREPLY+=("$word")
    done < <(sovereignctl complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2> /dev/null)
}
complete -F _sovereignctl sovereignctl
