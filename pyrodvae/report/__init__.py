"""Reports: what was done and found as one page, complete in itself, to listen to and to look at."""

from pyrodvae.report.enhancement import EnhancementReport
from pyrodvae.report.page import check_page
from pyrodvae.report.results import results_page, write_results

__all__ = ["EnhancementReport", "check_page", "results_page", "write_results"]
